import { execFile } from 'node:child_process';
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts';
import { LOOPBACK, type Receiver, startReceiver } from '../support/webhook-receiver.ts';

const run = promisify(execFile);
const pathOf = (url: URL) => fileURLToPath(url);
const ROOT = pathOf(new URL('../..', import.meta.url));
const GENERATOR = pathOf(
  new URL('../../node_modules/@hey-api/openapi-ts/bin/run.js', import.meta.url),
);
const COMPILER = join(ROOT, 'node_modules/typescript/bin/tsc');

/** As an integrator has it who is strict, and has no types but those of Node. */
const SETTINGS = {
  compilerOptions: {
    target: 'ES2023',
    lib: ['ES2023', 'DOM', 'DOM.Iterable'],
    module: 'NodeNext',
    strict: true,
    noUncheckedIndexedAccess: true,
    noUnusedLocals: true,
    skipLibCheck: true,
    types: ['node'],
    typeRoots: [join(ROOT, 'node_modules/@types')],
    outDir: 'out',
  },
};

describe('a client that is generated from the contract', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mailguard-client-'));
  let t: TestGateway;
  let sink: SmtpSink;
  let receiver: Receiver;
  beforeAll(async () => {
    sink = await startSmtpSink();
    receiver = await startReceiver();
    t = await startTestGateway({ config: LOOPBACK });
  });
  afterAll(async () => {
    await t.close();
    await receiver.close();
    await sink.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('compiles with a program that uses it, and the program gets what its types promise', async () => {
    await generate();
    await compile();
    const story = await runJourney();
    expect(story).toEqual({
      held: ['eve@sender.example', 'Hello', 'held'],
      released: [200, 'released'],
      hook: [['quarantine.released'], 'whsec_'],
      refused: [422, 'target_refused'],
      key: { alive: 200, dead: 401, code: 'unauthorized' },
      read: [
        'api_key.created',
        'mail_domain.created',
        'quarantine.added',
        'webhook.created',
        'quarantine.release_requested',
        'quarantine.release_started',
        'quarantine.released',
        'api_key.created',
      ],
      isInOrder: true,
    });
    const [message] = await sink.waitFor(1);
    expect(message?.to).toEqual(['you@client.example']);
    await receiver.until(1);
    expect(receiver.received[0]?.payload.type).toBe('quarantine.released');
  });

  it('does not compile with a program that asks for what is not there', async () => {
    const wrong =
      "import { listApiKeys } from './generated/sdk.gen.js';\nlistApiKeys({ query: { limit: 'x' } });\n";
    writeFileSync(join(folder, 'journey.ts'), wrong);
    await expect(compile()).rejects.toMatchObject({
      stdout: expect.stringContaining("journey.ts(2,24): error TS2322: Type 'string' is not"),
    });
  });

  /** From the file alone: it formats nothing, writes no log, and asks nobody. */
  async function generate(): Promise<void> {
    const to = join(folder, 'generated');
    const from = join(ROOT, 'openapi.yaml');
    const args = ['-i', from, '-o', to, '-c', '@hey-api/client-fetch', '--no-log-file', '--silent'];
    await run(process.execPath, [GENERATOR, ...args], { cwd: ROOT });
    const journey = pathOf(new URL('client/journey.ts', import.meta.url));
    copyFileSync(journey, join(folder, 'journey.ts'));
    writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(SETTINGS));
  }

  const compile = () => run(process.execPath, [COMPILER, '-p', folder]);

  async function runJourney(): Promise<unknown> {
    const args = [t.url, t.bootstrapKey, `127.0.0.1:${sink.port}`, receiver.url];
    const { stdout } = await run(process.execPath, [join(folder, 'out/journey.js'), ...args]);
    return JSON.parse(stdout);
  }
});
