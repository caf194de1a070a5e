import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

const PROGRAMS = ['chromium-headless-shell', 'chromium', 'google-chrome'];
const ANSWER_MS = 20_000;
const END_MS = 10_000;
const LOOK_MS = 50;

/** The browser of this machine; null where there is none, and its tests are skipped. */
export const findBrowser = (): string | null =>
  PROGRAMS.find((name) => spawnSync(name, ['--version']).status === 0) ?? null;

/** A page that is open, and what it did since. */
export type Page = Readonly<{
  /** The value of an expression in the page. */
  evaluate: (expression: string) => Promise<unknown>;
  /** Waits until an expression is true in the page; throws with the page's text when it stays false. */
  until: (expression: string) => Promise<void>;
  /** Types a text where an element has the focus, as a person would. */
  type: (selector: string, text: string) => Promise<void>;
  /** Every address that was asked for, also of what was refused before it left. */
  requested: readonly string[];
  /** What the browser has to complain of: refused by a policy, not caught, not found. */
  complaints: readonly string[];
  close: () => Promise<void>;
}>;

type Message = { id?: number; method?: string; params?: any; result?: any; error?: object };
type Line = Readonly<{
  call: (method: string, params?: object, sessionId?: string) => Promise<any>;
  onEvent: (listener: (method: string, params: any) => void) => void;
}>;

/** Opens an address in a browser of its own with an empty profile. */
export async function openPage(program: string, url: string): Promise<Page> {
  const profile = mkdtempSync(join(tmpdir(), 'mailguard-browser-'));
  const child = spawn(
    program,
    [
      ...['--headless', '--remote-debugging-pipe', `--user-data-dir=${profile}`, '--no-first-run'],
      // Root may start it only so, and a container has little shared memory.
      ...['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', 'about:blank'],
    ],
    // The DevTools protocol speaks through descriptors 3 and 4, so it takes no port and no client.
    { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] },
  );
  const line = openLine(child.stdio[3] as Writable, child.stdio[4] as Readable);
  const close = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, 'exit');
      await line.call('Browser.close').catch(() => child.kill('SIGKILL'));
      await Promise.race([ended, sleep(END_MS).then(() => child.kill('SIGKILL'))]);
    }
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  try {
    return { ...(await attach(line, url)), close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function attach(line: Line, url: string): Promise<Omit<Page, 'close'>> {
  const requested: string[] = [];
  const complaints: string[] = [];
  line.onEvent((method, params) => {
    if (method === 'Network.requestWillBeSent') requested.push(params.request.url);
    if (method === 'Log.entryAdded') complaints.push(`${params.entry.text} ${params.entry.url}`);
    if (method === 'Runtime.exceptionThrown') {
      complaints.push(params.exceptionDetails.exception?.description ?? 'an exception');
    }
    if (method === 'Runtime.consoleAPICalled' && params.type === 'error') {
      complaints.push(params.args.map(({ value }: { value?: unknown }) => String(value)).join(' '));
    }
  });
  const { targetInfos } = await line.call('Target.getTargets');
  const { targetId } = targetInfos.find(({ type }: { type: string }) => type === 'page');
  const attached = await line.call('Target.attachToTarget', { targetId, flatten: true });
  const call = (method: string, params = {}) => line.call(method, params, attached.sessionId);
  for (const domain of ['Network', 'Log', 'Runtime', 'Page']) await call(`${domain}.enable`);
  await call('Page.navigate', { url });
  const evaluate = async (expression: string) => {
    const told = await call('Runtime.evaluate', {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (told.exceptionDetails !== undefined) {
      throw new Error(told.exceptionDetails.exception?.description ?? expression);
    }
    return told.result.value as unknown;
  };
  const until = async (expression: string) => {
    for (let waited = 0; waited < ANSWER_MS; waited += LOOK_MS) {
      if ((await evaluate(`Boolean(${expression})`)) === true) return;
      await sleep(LOOK_MS);
    }
    const text = await evaluate('document.body.innerText');
    throw new Error(`${expression} stayed false\n${complaints.join('\n')}\n${text}`);
  };
  const type = async (selector: string, text: string) => {
    await evaluate(`document.querySelector(${JSON.stringify(selector)}).focus()`);
    await call('Input.insertText', { text });
  };
  return { evaluate, until, type, requested, complaints };
}

/** The DevTools protocol over a pair of pipes: JSON, each message ended by a zero byte. */
function openLine(out: Writable, back: Readable): Line {
  const waiting = new Map<number, (message: Message) => void>();
  const listeners: ((method: string, params: any) => void)[] = [];
  let sent = 0;
  let rest = '';
  back.setEncoding('utf8').on('data', (chunk: string) => {
    const messages = (rest + chunk).split('\0');
    rest = messages.pop() ?? '';
    for (const text of messages) {
      const message = JSON.parse(text) as Message;
      if (message.id === undefined) {
        for (const listener of listeners) listener(message.method ?? '', message.params);
      } else waiting.get(message.id)?.(message);
    }
  });
  out.on('error', () => undefined);
  return {
    onEvent: (listener) => listeners.push(listener),
    call(method, params = {}, sessionId) {
      sent += 1;
      const id = sent;
      out.write(`${JSON.stringify({ id, method, params, ...(sessionId && { sessionId }) })}\0`);
      return new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`${method}: no answer`)), ANSWER_MS);
        waiting.set(id, ({ result, error }) => {
          clearTimeout(timer);
          waiting.delete(id);
          if (error === undefined) resolve(result);
          else reject(new Error(`${method}: ${JSON.stringify(error)}`));
        });
      });
    },
  };
}
