import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { routes } from '../../src/api/routes.ts';
import { findBrowser, openPage, type Page } from '../support/browser.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';

const POLICY =
  "default-src 'none';script-src 'self';style-src 'self';img-src data:;connect-src 'self';" +
  "frame-ancestors 'none';base-uri 'none';form-action 'none'";

let t: TestGateway;
beforeAll(async () => {
  t = await startTestGateway();
});
afterAll(() => t.close());

const get = (path: string, headers: Record<string, string> = {}) =>
  t.send('GET', path, { key: null, headers });

describe('GET /docs', () => {
  const files: readonly (readonly [string, string])[] = [
    ['/docs', 'text/html'],
    ['/docs/start.js', 'text/javascript'],
    ['/docs/swagger-ui.css', 'text/css'],
    ['/docs/swagger-ui-bundle.js', 'text/javascript'],
  ];

  it.each(files)('200: %s, without a key, as UTF-8, under its own policy', async (path, type) => {
    const reply = await get(path);
    expect(reply.status).toBe(200);
    expect(reply.headers.get('content-type')).toBe(`${type}; charset=utf-8`);
    expect(reply.headers.get('content-security-policy')).toBe(POLICY);
    expect(reply.headers.get('x-content-type-options')).toBe('nosniff');
    expect(reply.headers.get('cache-control')).toBe('no-cache');
    expect(reply.headers.get('x-request-id')).toMatch(/\S/);
  });

  it.each(files)('304: %s that a client has', async (path) => {
    for (const coding of ['identity', 'gzip']) {
      const headers = { 'Accept-Encoding': coding };
      const tag = (await get(path, headers)).headers.get('etag') ?? '';
      expect(tag).toMatch(/^"[\w-]+"$/);
      const again = await get(path, { ...headers, 'If-None-Match': `"other", W/${tag}` });
      expect([again.status, again.text, again.headers.get('etag')]).toEqual([304, '', tag]);
      expect(again.headers.get('content-security-policy')).toBe(POLICY);
      expect((await get(path, { ...headers, 'If-None-Match': '"other"' })).status).toBe(200);
    }
  });

  it.each(files)('%s is the same packed and plain, under two tags', async (path) => {
    const plain = await get(path, { 'Accept-Encoding': 'identity' });
    const packed = await get(path, { 'Accept-Encoding': 'gzip' });
    expect(packed.headers.get('content-encoding')).toBe('gzip');
    expect(packed.headers.get('vary')).toBe('Accept-Encoding');
    expect(packed.text).toBe(plain.text);
    expect(packed.headers.get('etag')).not.toBe(plain.headers.get('etag'));
  });

  it('404: a file that the page does not load, in the envelope and under the policy of all answers', async () => {
    for (const name of ['index.html', 'swagger-ui.js', '..%2Fpackage.json', '__proto__']) {
      const reply = await get(`/docs/${name}`);
      expect([name, reply.status, reply.body.error]).toEqual([name, 404, 'not_found']);
      expect(reply.headers.get('content-security-policy')).toContain("default-src 'none'");
      expect(reply.headers.get('content-security-policy')).not.toContain("'self'");
    }
  });

  it('404: with a final slash, where its relative addresses would lead elsewhere', async () => {
    expect((await get('/docs/')).status).toBe(404);
  });

  it('has no script and no style in its text, and no address but its own', async () => {
    const { text } = await get('/docs');
    expect(text).not.toMatch(/<style|\sstyle=|\son\w+=|javascript:/i);
    expect([...text.matchAll(/<script[^>]*>([^<]*)/g)].map(([, inside]) => inside)).toEqual([
      '',
      '',
    ]);
    const addresses = [...text.matchAll(/\s(?:src|href)="([^"]*)"/g)].map(
      ([, address = '']) => address,
    );
    expect(addresses.toSorted()).toEqual([
      'data:,',
      'docs/start.js',
      'docs/swagger-ui-bundle.js',
      'docs/swagger-ui.css',
      'openapi.yaml',
    ]);
    for (const address of addresses.filter((name) => !name.startsWith('data:'))) {
      const { href } = new URL(address, `${t.url}/api/v1/docs`);
      expect([href, (await fetch(href)).status]).toEqual([href, 200]);
    }
  });
});

const browser = findBrowser();
if (browser === null)
  console.warn('the page of the contract is tried in no browser: none is installed');

describe.skipIf(browser === null)('the page of the contract in a browser', () => {
  let page: Page;
  beforeAll(async () => {
    page = await openPage(browser ?? '', `${t.url}/api/v1/docs`);
  });
  afterAll(() => page.close());

  const click = (selector: string) =>
    page.evaluate(`document.querySelector(${JSON.stringify(selector)}).click()`);
  const operation = (id: string) => `.opblock[id$="-${id}"]`;

  it('shows every operation, asks no other host, and breaks no policy', async () => {
    await page.until('document.querySelectorAll(".opblock").length > 0');
    const shown = await page.evaluate(
      '[...document.querySelectorAll(".opblock")].map(({ id }) => id.split("-").at(-1))',
    );
    expect(shown).toEqual(expect.arrayContaining(routes.map(({ id }) => id)));
    const loaded = page.requested.filter((url) => !url.startsWith('data:'));
    expect(loaded.map((url) => url.replace(t.url, '')).toSorted()).toEqual([
      '/api/v1/docs',
      '/api/v1/docs/start.js',
      '/api/v1/docs/swagger-ui-bundle.js',
      '/api/v1/docs/swagger-ui.css',
      '/api/v1/openapi.json',
    ]);
    expect(page.complaints).toEqual([]);
  });

  it('sends a request with a key that was typed in, shows its answer, and keeps no key', async () => {
    const list = operation('listApiKeys');
    await page.until(`document.querySelector('${list}') !== null`);
    await click('.authorize');
    await page.until('document.querySelector("#api_key_value") !== null');
    await page.type('#api_key_value', t.bootstrapKey);
    await click('.modal-ux .authorize');
    await page.until('document.querySelector(".modal-ux").innerText.includes("Logout")');
    await click('.modal-ux .btn-done');
    await click(`${list} .opblock-summary-control`);
    await page.until(`document.querySelector('${list} .try-out__btn') !== null`);
    await click(`${list} .try-out__btn`);
    await page.until(`document.querySelector('${list} .execute') !== null`);
    await click(`${list} .execute`);
    const row = `${list} .live-responses-table .response`;
    await page.until(`document.querySelector('${row}') !== null`);
    const answer = await page.evaluate(`document.querySelector('${row}').innerText`);
    expect(answer).toMatch(/^200/);
    expect(answer).toContain('"key_prefix"');
    expect(
      await page.evaluate('[localStorage.length, sessionStorage.length, document.cookie]'),
    ).toEqual([0, 0, '']);
    expect(
      page.requested.filter((url) => !url.startsWith(t.url) && !url.startsWith('data:')),
    ).toEqual([]);
    expect(page.complaints).toEqual([]);
  });

  it('is stopped by its policy from loading anything else', async () => {
    // The control arm: what the tests above find none of would be seen.
    await page.evaluate(
      'document.head.append(Object.assign(document.createElement("script"), { src: "http://localhost:9/x.js" }))',
    );
    await page.evaluate(
      'document.body.insertAdjacentHTML("beforeend", "<p style=\\"color:red\\">x</p>")',
    );
    await page.until('document.body.innerText.includes("x")');
    expect(page.complaints.join('\n')).toMatch(/script-src 'self'[\s\S]*style-src 'self'/);
  });
});
