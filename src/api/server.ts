import { randomUUID } from 'node:crypto';
import { readFileSync, unwatchFile, watchFile } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import type { Socket } from 'node:net';
import express from 'express';
import helmet from 'helmet';
import { DomainError } from '../domain/errors.ts';
import { hasKeyInUrl } from './authenticate.ts';
import { type ClientAddress, clientAddressOf } from './client-address.ts';
import type { Context } from './context.ts';
import { beginExchange, type Exchange } from './exchange.ts';
import { BASE_PATH } from './paths.ts';
import { runRoute, sendError } from './pipeline.ts';
import type { AnyRoute, Method } from './route.ts';

const LIMITS = {
  // Filters tell a message's whole envelope, and every rule it met, in headers.
  maxHeaderSize: 65_536,
  headersTimeout: 10_000,
  requestTimeout: 60_000,
  keepAliveTimeout: 65_000,
  connectionsCheckingInterval: 2_000,
} as const;
const HEADERS_MAX = 64;

/** The HTTP server that runs a route table; it listens where its owner says. */
export function createServer(context: Context, routes: readonly AnyRoute[]): http.Server {
  const app = createApp(context, routes);
  // Express would otherwise change the prototype of each request and response, which costs more than
  // all the rest of it: made with its prototypes, they need no change.
  function Request(this: http.IncomingMessage, socket: Socket) {
    http.IncomingMessage.call(this, socket);
  }
  Request.prototype = app.request;
  function Response(this: http.ServerResponse, ...parameters: unknown[]) {
    (http.ServerResponse as unknown as (...p: unknown[]) => void).apply(this, parameters);
  }
  Response.prototype = app.response;
  const options = {
    ...LIMITS,
    IncomingMessage: Request as never,
    ServerResponse: Response as never,
  };
  const { tls } = context.config;
  const server =
    tls === null
      ? http.createServer(options, app)
      : https.createServer({ ...options, ...readCertificate(tls), minVersion: 'TLSv1.2' }, app);
  // One more than is allowed: the parser drops what is beyond, and we would not notice.
  server.maxHeadersCount = HEADERS_MAX + 1;
  server.on('clientError', answerBrokenRequest);
  if (tls !== null) reloadCertificate(server as https.Server, tls, context);
  return server;
}

function createApp(context: Context, routes: readonly AnyRoute[]): express.Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', false);
  app.set('strict routing', true);
  app.set('case sensitive routing', true);
  app.use(securityHeaders(context.config.tls !== null));
  app.use(begin(context, clientAddressOf(context.config.trustedProxies)));
  for (const [path, methods] of byPath(routes)) {
    const at = app.route(path.replaceAll(/\{(\w+)\}/g, ':$1'));
    for (const route of methods) {
      at[route.method]((request, response) => {
        void runRoute(context, route, exchangeOf(response), request.params);
      });
    }
    at.all((_request, response) => {
      response.setHeader('Allow', allowed(methods).join(', '));
      const refusal = new DomainError('method_not_allowed', 'See Allow for what can be done here.');
      sendError(context, exchangeOf(response), refusal);
    });
  }
  app.use((_request, response) => {
    const refusal = new DomainError('not_found', 'There is nothing here.');
    sendError(context, exchangeOf(response), refusal);
  });
  app.use(onBrokenPath(context));
  return app;
}

/** Constant headers for an API: nothing may be framed, sniffed, cached or run. */
function securityHeaders(hasTls: boolean): express.RequestHandler {
  const secure = helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"], baseUri: ["'none'"] },
    },
    // Over plain HTTP, on loopback, it would be ignored at best.
    strictTransportSecurity: hasTls,
    xFrameOptions: { action: 'deny' },
  });
  return (request, response, next) => {
    response.setHeader('Cache-Control', 'no-store');
    secure(request, response, next);
  };
}

const EXCHANGE = Symbol('exchange');
type WithExchange = express.Response & { [EXCHANGE]?: Exchange };

function exchangeOf(response: express.Response): Exchange {
  const exchange = (response as WithExchange)[EXCHANGE];
  if (exchange === undefined) throw new Error('a response without an exchange');
  return exchange;
}

function begin(context: Context, addressOf: ClientAddress): express.RequestHandler {
  return (request, response, next) => {
    const exchange = beginExchange(request, response, addressOf(request));
    (response as WithExchange)[EXCHANGE] = exchange;
    response.once('close', () => record(context, exchange));
    // A client that keeps its connection busy would otherwise never let the server end.
    if (context.isStopping()) response.setHeader('Connection', 'close');
    if (request.rawHeaders.length > 2 * HEADERS_MAX) {
      const message = `A request takes at most ${HEADERS_MAX} headers.`;
      sendError(context, exchange, new DomainError('headers_too_large', message));
      return;
    }
    if (!hasKeyInUrl(request.url)) {
      next();
      return;
    }
    const text = /nmg_[0-9a-f]{64}/.exec(request.url)?.[0] ?? '';
    const { key } = context.liveKeys.verify(text, context.clock.nowMs());
    context.activity.denied('key_in_url', key, exchange.address);
    const message = 'Never put a key into a URL: this one is in logs now, so rotate it.';
    sendError(context, exchange, new DomainError('key_in_url', message));
  };
}

/** One line and one sample per request; the path as the table has it, never as it was sent. */
function record(context: Context, exchange: Exchange): void {
  const { response, request, startedAt, route, key, requestId } = exchange;
  const seconds = (performance.now() - startedAt) / 1_000;
  const status = String(response.statusCode);
  const labels = { route: route?.id ?? 'none', method: request.method ?? '', status };
  context.metrics.requests.observe(labels, seconds);
  context.logger.info(
    {
      request_id: requestId,
      method: request.method,
      route: route?.path ?? null,
      status: response.statusCode,
      ms: Math.round(seconds * 1e6) / 1e3,
      key_id: key?.id ?? null,
      ...(response.writableFinished ? {} : { cut: true }),
    },
    'request',
  );
}

function onBrokenPath(context: Context): express.ErrorRequestHandler {
  return (error: unknown, _request, response, _next) => {
    const isBadPath = (error as { status?: number }).status === 400;
    const refusal = isBadPath ? new DomainError('bad_request', 'The path is not valid.') : error;
    sendError(context, exchangeOf(response), refusal);
  };
}

function byPath(routes: readonly AnyRoute[]): Map<string, AnyRoute[]> {
  const paths = new Map<string, AnyRoute[]>();
  for (const route of routes) {
    const path = route.atRoot ? route.path : BASE_PATH + route.path;
    paths.set(path, [...(paths.get(path) ?? []), route]);
  }
  return paths;
}

function allowed(routes: readonly AnyRoute[]): string[] {
  const methods = routes.map(({ method }) => method.toUpperCase() as Uppercase<Method>);
  return methods.includes('GET') ? [...methods, 'HEAD'] : methods;
}

/** What the HTTP parser refuses never becomes a request, and is answered on the bare socket. */
function answerBrokenRequest(error: NodeJS.ErrnoException, socket: import('node:stream').Duplex) {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const isTooLarge = error.code === 'HPE_HEADER_OVERFLOW';
  const status = isTooLarge ? '431 Request Header Fields Too Large' : '400 Bad Request';
  const body = JSON.stringify({
    data: null,
    error: isTooLarge ? 'headers_too_large' : 'bad_request',
    message: isTooLarge ? 'Headers take at most 64 KiB.' : 'This is not a valid HTTP request.',
  });
  socket.end(
    `HTTP/1.1 ${status}\r\nContent-Type: application/json; charset=utf-8\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nCache-Control: no-store\r\n` +
      `X-Request-Id: ${randomUUID()}\r\n` +
      `X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n${body}`,
  );
}

type TlsFiles = Readonly<{ certPath: string; keyPath: string }>;

const readCertificate = ({ certPath, keyPath }: TlsFiles) => ({
  cert: readFileSync(certPath),
  key: readFileSync(keyPath),
});

const CERTIFICATE_LOOK_MS = 5_000;

/** A renewed certificate is used without a restart; one that does not fit leaves the old in place. */
function reloadCertificate(server: https.Server, tls: TlsFiles, { logger }: Context): void {
  const reload = () => {
    try {
      server.setSecureContext({ ...readCertificate(tls), minVersion: 'TLSv1.2' });
      logger.info({}, 'certificate reloaded');
    } catch (error) {
      logger.error({ err: error }, 'the renewed certificate cannot be used');
    }
  };
  for (const path of [tls.certPath, tls.keyPath]) {
    watchFile(path, { interval: CERTIFICATE_LOOK_MS, persistent: false }, reload);
  }
  server.once('close', () => {
    unwatchFile(tls.certPath);
    unwatchFile(tls.keyPath);
  });
}
