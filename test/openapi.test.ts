import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
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
