import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import { gzipSync } from 'node:zlib';
import { acceptsGzip } from './accept.ts';
import { isUnchanged } from './revalidation.ts';

// Addresses are relative, so that the page also works below a proxy's prefix. The empty icon keeps a browser
// from asking for one.
const HTML = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MailGuard API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<noscript>This page needs JavaScript. The contract itself is <a href="openapi.yaml">openapi.yaml</a>.</noscript>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
`;

// Nothing is asked of another host, and a key that was typed in is forgotten with the page.
const START = `SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#docs',
  layout: 'BaseLayout',
  deepLinking: true,
  validatorUrl: null,
  persistAuthorization: false,
});
`;

/** What the page may do: load from here and talk to here. Its style sheet holds its small pictures. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  'img-src data:',
  "connect-src 'self'",
  "frame-ancestors 'none'",
  "base-uri 'none'",
  "form-action 'none'",
].join(';');

type File = Readonly<{ contentType: string; plain: Buffer; packed: Buffer; tag: string }>;

const require = createRequire(import.meta.url);

const PAGE = once('text/html', () => HTML);

/** Each file that the page loads, by name, and no other: a name never becomes a path. */
const FILES: ReadonlyMap<string, () => File> = new Map([
  ['start.js', once('text/javascript', () => START)],
  [
    'swagger-ui.css',
    once('text/css', () => textOf(require.resolve('swagger-ui-dist/swagger-ui.css'))),
  ],
  [
    'swagger-ui-bundle.js',
    once('text/javascript', () => textOf(require.resolve('swagger-ui-dist/swagger-ui-bundle.js'))),
  ],
]);

/** The source maps that the files name at their end are not served. */
const textOf = (path: string): string =>
  readFileSync(path, 'utf8').replace(/\n\/[/*]# sourceMappingURL=.*\s*$/, '\n');

/** Read and packed when it is first asked for: packing two megabytes for each request would be a way to tire us. */
function once(contentType: string, read: () => string): () => File {
  let file: File | null = null;
  return () => {
    if (file !== null) return file;
    const plain = Buffer.from(read());
    const tag = createHash('sha256').update(plain).digest('base64url').slice(0, 22);
    file = { contentType: `${contentType}; charset=utf-8`, plain, packed: gzipSync(plain), tag };
    return file;
  };
}

/**
 * Answers a file that the page loads, or the page itself for null, under a policy of its own; 304 for a client
 * that has it. False when there is no such file.
 */
export function sendDocsFile(
  request: IncomingMessage,
  response: ServerResponse,
  name: string | null,
): boolean {
  const file = (name === null ? PAGE : FILES.get(name))?.();
  if (file === undefined) return false;
  const isPacked = acceptsGzip(request);
  // A strong tag is one of the very bytes, so each coding has its own (RFC 9110 8.8.3.3).
  const tag = `"${file.tag}${isPacked ? '-gzip' : ''}"`;
  response.setHeader('Content-Security-Policy', POLICY);
  response.setHeader('ETag', tag);
  response.setHeader('Vary', 'Accept-Encoding');
  // Kept, but asked about each time: names stay the same in the next release.
  response.setHeader('Cache-Control', 'no-cache');
  if (isUnchanged(request, tag)) {
    response.statusCode = 304;
    response.end();
    return true;
  }
  const body = isPacked ? file.packed : file.plain;
  if (isPacked) response.setHeader('Content-Encoding', 'gzip');
  response.setHeader('Content-Type', file.contentType);
  response.setHeader('Content-Length', body.length);
  response.end(request.method === 'HEAD' ? undefined : body);
  return true;
}
