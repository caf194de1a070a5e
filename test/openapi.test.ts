import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { openapiJson, openapiYaml } from '../src/api/openapi.ts';
import { BASE_PATH } from '../src/api/paths.ts';
import { routes } from '../src/api/routes.ts';

const committed = readFileSync(new URL('../openapi.yaml', import.meta.url), 'utf8');

describe('openapi.yaml', () => {
  it('is what the route table prints (npm run openapi mends it)', () => {
    expect(committed).toBe(openapiYaml(routes));
  });

  it('is the same document as the JSON form', () => {
    expect(parse(committed)).toEqual(JSON.parse(openapiJson(routes)));
  });

  it('describes every route of the table and nothing else', () => {
    const { paths } = parse(committed) as { paths: Record<string, Record<string, unknown>> };
    const described = Object.entries(paths).flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method} ${path}`),
    );
    const table = routes.map((r) => `${r.method} ${r.atRoot ? r.path : BASE_PATH + r.path}`);
    expect(described.sort()).toEqual(table.sort());
  });

  it('gives each operation a summary, an example where one is needed, and its refusals', () => {
    const { paths } = parse(committed) as { paths: Record<string, Record<string, any>> };
    for (const operation of Object.values(paths).flatMap((o) => Object.values(o))) {
      expect(operation.summary, operation.operationId).toMatch(/\.$/);
      expect(Object.keys(operation.responses).length, operation.operationId).toBeGreaterThan(1);
      if (!operation.requestBody?.required) continue;
      for (const body of Object.values<any>(operation.requestBody.content))
        expect(body.example, operation.operationId).toBeDefined();
    }
  });

  it('demands all three members of every envelope', () => {
    const { paths, components } = parse(committed) as { paths: any; components: any };
    const envelopes = Object.values<any>(paths)
      .flatMap((operations) => Object.values<any>(operations))
      .filter(({ operationId }) => operationId !== 'openapiJson')
      .flatMap(({ responses }) => Object.values<any>(responses))
      .flatMap(({ content }) => content?.['application/json']?.schema ?? [])
      .map((schema) => (schema.$ref === undefined ? schema : components.schemas.Refusal));
    expect(envelopes.length).toBeGreaterThan(routes.length);
    const demanded = new Set(envelopes.map(({ required }) => required.join()));
    expect([...demanded]).toEqual(['data,error,message']);
  });

  describe('says where null is', () => {
    const ajv = new Ajv2020({ strict: false, validateSchema: false, logger: false });
    ajv.addSchema(parse(committed), 'contract');
    const takes = (steps: readonly string[], value: unknown): boolean => {
      const names = steps.map((step) => step.replaceAll('~', '~0').replaceAll('/', '~1'));
      const pointer = names.map((name) => `/${encodeURIComponent(name)}`).join('');
      return ajv.compile({ $ref: `contract#${pointer}` })(value);
    };
    const operationOf = ({ path, method, atRoot }: (typeof routes)[number]): string[] => [
      'paths',
      atRoot ? path : BASE_PATH + path,
      method,
    ];
    const JSON_SCHEMA = ['content', 'application/json', 'schema'];

    it('in each member of a body', () => {
      const differing = routes.flatMap((route) => {
        const shape = (route.body as { shape?: Record<string, any> } | undefined)?.shape ?? {};
        const at = [...operationOf(route), 'requestBody', ...JSON_SCHEMA, 'properties'];
        return Object.entries(shape)
          .filter(([name, schema]) => schema.safeParse(null).success !== takes([...at, name], null))
          .map(([name]) => `${route.id} ${name}`);
      });
      expect(differing).toEqual([]);
    });

    it('in the data of each answer', () => {
      const answersOf = ({ responses }: any) =>
        Object.keys(responses).filter((status) => /^2/.test(status));
      const { paths } = parse(committed) as { paths: any };
      const differing = routes.flatMap((route) => {
        const at = operationOf(route);
        const operation = paths[at[1]!][at[2]!];
        const envelope = { data: null, error: null, message: 'OK' };
        return answersOf(operation)
          .filter((status) => 'application/json' in operation.responses[status].content)
          .filter((status) => {
            const isTaken = takes([...at, 'responses', status, ...JSON_SCHEMA], envelope);
            return route.id !== 'openapiJson' && route.reply.safeParse(null).success !== isTaken;
          })
          .map((status) => `${route.id} ${status}`);
      });
      expect(differing).toEqual([]);
    });
  });

  it('passes the linter', () => {
    const cli = new URL('../node_modules/@redocly/cli/bin/cli.js', import.meta.url).pathname;
    const file = new URL('../openapi.yaml', import.meta.url).pathname;
    const env = {
      ...process.env,
      REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true',
      REDOCLY_TELEMETRY: 'off',
    };
    const out = execFileSync(process.execPath, [cli, 'lint', file, '--format', 'json'], {
      encoding: 'utf8',
      env,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const report = JSON.parse(out.slice(out.indexOf('{'))) as { totals: object };
    expect(report.totals).toMatchObject({ errors: 0, warnings: 0 });
  });
});
