import { writeFile } from 'node:fs/promises';
import { type Command, EXIT } from './command.ts';
import { print } from './terminal.ts';

export const openapiPrint: Command = {
  name: 'openapi print',
  summary: 'Print the contract of the API (OpenAPI 3.1, YAML).',
  description: ['It is made from the route table; neither gateway nor database is needed.'],
  options: {
    out: { value: 'FILE', help: 'Write it to a file.' },
    json: { help: 'Print it as JSON.' },
  },
  environment: [],
  run: async (given, { stdout }) => {
    const [{ openapiJson, openapiYaml }, { routes }] = await Promise.all([
      import('../api/openapi.ts'),
      import('../api/routes.ts'),
    ]);
    const text = given.has('json') ? `${openapiJson(routes)}\n` : openapiYaml(routes);
    const file = given.text('out');
    if (file === null) await print(stdout, text);
    else await writeFile(file, text);
    return EXIT.done;
  },
};
