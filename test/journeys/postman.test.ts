import { readFileSync } from 'node:fs';
import newman from 'newman';
import converter from 'openapi-to-postmanv2';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';

const contract = readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8');

/** What an integrator does first: import the contract into Postman, and press run. */
describe('the contract in Postman', () => {
  let t: TestGateway;
  beforeAll(async () => {
    t = await startTestGateway();
    // The examples in the contract speak of keys 2 to 5 and mail domains 1 and 2.
    for (let n = 2; n <= 5; n += 1) await t.createKey();
    for (let n = 1; n <= 2; n += 1) await t.createDomain();
  });
  afterAll(() => t.close());

  it('converts whole, and every request is answered as its example promises', async () => {
    const collection = await convert();
    const summary = await run(collection, t);
    // newman has no types of its own.
    const answers = (summary.run.executions as any[]).map(({ item, request, response }) => ({
      name: item.name,
      request: `${request.method} ${request.url.getPath()}`,
      status: response?.code,
    }));
    const operations = contract.match(/operationId:/g)?.length;
    expect(answers).toHaveLength(operations ?? 0);
    expect(answers.filter(({ status }) => status === undefined || status >= 300)).toEqual([]);
    expect(summary.run.failures).toEqual([]);
  });
});

function convert(): Promise<object> {
  const options = {
    requestParametersResolution: 'Example',
    enableOptionalParameters: false,
    folderStrategy: 'Tags',
  };
  return new Promise((resolve, reject) => {
    converter.convert(
      { type: 'string', data: contract },
      options,
      (error: unknown, result: any) => {
        if (error || !result.result) reject(error ?? new Error(result.reason));
        else resolve(result.output[0].data);
      },
    );
  });
}

function run(collection: object, t: TestGateway): Promise<any> {
  const withKey = {
    ...collection,
    auth: {
      type: 'apikey',
      apikey: [
        { key: 'key', value: 'X-API-Key' },
        { key: 'value', value: t.bootstrapKey },
        { key: 'in', value: 'header' },
      ],
    },
  };
  const options = {
    collection: JSON.parse(JSON.stringify(withKey).replaceAll('{{apiKey}}', t.bootstrapKey)),
    envVar: [{ key: 'baseUrl', value: t.url }],
    reporters: [],
  };
  return new Promise((resolve, reject) => {
    newman.run(options as any, (error: unknown, summary: unknown) => {
      if (error) reject(error);
      else resolve(summary);
    });
  });
}
