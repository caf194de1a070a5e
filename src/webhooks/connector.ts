import { lookup as systemLookup } from 'node:dns/promises';
import net from 'node:net';
import tls from 'node:tls';
import { buildConnector } from 'undici';
import type { AddressPolicy, LookupAll } from './addresses.ts';

/** How long one address of several is tried; the last one has what is left of the whole time. */
const ADDRESS_ATTEMPT_MS = 1_000;
/** First TCP keep-alive probe, as undici's own connector has it. */
const KEEP_ALIVE_MS = 60_000;
const CAUSES_MAX = 8;

/** Why no connection came about: then no byte of a request was sent. */
export type ConnectFailure = 'blocked' | 'dns' | 'connect' | 'certificate' | 'tls' | 'timeout';

/** The guard refused: the host is, or resolves to, an address that deliveries may not go to. */
export class BlockedTargetError extends Error {
  readonly code = 'blocked';

  constructor(host: string) {
    super(`${host} is, or resolves to, an address that is not public`);
    this.name = 'BlockedTargetError';
  }
}

/** A connection that did not come about; the phase is known here, and not from the cause's code. */
class ConnectError extends Error {
  readonly code: Exclude<ConnectFailure, 'blocked'>;

  constructor(code: ConnectError['code'], message: string, options: ErrorOptions = {}) {
    super(message, options);
    this.name = 'ConnectError';
    this.code = code;
  }
}

/** OpenSSL's verdicts on certificates as Node names them ("X509 certificate error codes"). */
const CERTIFICATE_CODES: ReadonlySet<string | undefined> = new Set([
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_CRL',
  'UNABLE_TO_DECRYPT_CERT_SIGNATURE',
  'UNABLE_TO_DECRYPT_CRL_SIGNATURE',
  'UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY',
  'CERT_SIGNATURE_FAILURE',
  'CRL_SIGNATURE_FAILURE',
  'CERT_NOT_YET_VALID',
  'CERT_HAS_EXPIRED',
  'CRL_NOT_YET_VALID',
  'CRL_HAS_EXPIRED',
  'ERROR_IN_CERT_NOT_BEFORE_FIELD',
  'ERROR_IN_CERT_NOT_AFTER_FIELD',
  'ERROR_IN_CRL_LAST_UPDATE_FIELD',
  'ERROR_IN_CRL_NEXT_UPDATE_FIELD',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'CERT_CHAIN_TOO_LONG',
  'CERT_REVOKED',
  'INVALID_CA',
  'PATH_LENGTH_EXCEEDED',
  'INVALID_PURPOSE',
  'CERT_UNTRUSTED',
  'CERT_REJECTED',
  'HOSTNAME_MISMATCH',
  // Any other verdict, such as a key that is too small.
  'UNSPECIFIED',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'ERR_TLS_CERT_ALTNAME_FORMAT',
]);

type ConnectorOptions = Readonly<{
  /** For name resolution, TCP and TLS together. */
  connectTimeoutMs: number;
  lookup?: LookupAll;
  /** Certificates (PEM) that are trusted beside the public authorities. */
  ca?: readonly string[];
}>;

/**
 * A connector for undici, HTTP and HTTPS, whose connections never send a byte to an address that
 * `policy` denies: not by any spelling, nor by a name of which one address is denied, nor by a name
 * that changes its mind. Certificates are always verified. `connectFailureOf` tells its errors.
 */
export function guardedConnector(
  policy: AddressPolicy,
  options: ConnectorOptions,
): buildConnector.connector {
  const { connectTimeoutMs, lookup = systemLookup, ca = [] } = options;
  const guard: Guard = {
    policy,
    connectTimeoutMs,
    lookup: guardedLookup(policy, lookup),
    // Its own timer is off (0): ours also covers what is before the handshake.
    secure: buildConnector({
      secureContext: secureContext(ca),
      rejectUnauthorized: true,
      allowH2: false,
      timeout: 0,
    }),
  };
  return (target, callback) => {
    const host = target.hostname.replace(/^\[|\]$/g, '');
    // An address is never looked up, so the lookup below cannot judge it.
    if (net.isIP(host) !== 0 && policy.denies(host)) {
      queueMicrotask(() => callback(new BlockedTargetError(host), null));
      return;
    }
    dial(guard, { ...target, hostname: host }, callback);
  };
}

/**
 * Why a request through `guardedConnector` had no connection; null for an error of another kind,
 * after which the receiver may have seen the request.
 */
export function connectFailureOf(error: unknown): ConnectFailure | null {
  let current = error;
  for (let depth = 0; depth < CAUSES_MAX && current instanceof Error; depth += 1) {
    if (current instanceof BlockedTargetError || current instanceof ConnectError) {
      return current.code;
    }
    current = current.cause;
  }
  return null;
}

type Guard = Readonly<{
  policy: AddressPolicy;
  connectTimeoutMs: number;
  lookup: net.LookupFunction;
  secure: buildConnector.connector;
}>;

function dial(guard: Guard, target: buildConnector.Options, callback: buildConnector.Callback) {
  const { hostname: host, protocol } = target;
  let phase: 'connect' | 'tls' = 'connect';
  let isDone = false;
  const socket = net.connect({
    host,
    port: Number(target.port) || (protocol === 'https:' ? 443 : 80),
    lookup: guard.lookup,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: ADDRESS_ATTEMPT_MS,
  });
  const finish: buildConnector.Callback = (...result) => {
    if (isDone) return;
    isDone = true;
    clearTimeout(timer);
    callback(...result);
  };
  const fail = (error: Error) => {
    socket.destroy();
    finish(error, null);
  };
  const timer = setTimeout(() => {
    fail(new ConnectError('timeout', `no connection within ${guard.connectTimeoutMs} ms`));
  }, guard.connectTimeoutMs);
  // Stays for good: under TLS nobody else listens, and an error unheard would end the process.
  socket.on('error', (error) => fail(asConnectError(error, phase)));
  socket.once('connect', () => {
    const peer = socket.remoteAddress;
    if (peer === undefined) fail(new ConnectError(phase, 'closed at once'));
    // The last word: whatever was asked and answered before, this is who is there.
    else if (guard.policy.denies(peer)) fail(new BlockedTargetError(host));
    else if (protocol === 'https:') secure();
    else finish(null, socket.setNoDelay(true).setKeepAlive(true, KEEP_ALIVE_MS));
  });
  const secure = () => {
    phase = 'tls';
    guard.secure({ ...target, ...nameFor(host), httpSocket: socket }, (error, secured) => {
      if (error === null) finish(null, secured);
      else fail(asConnectError(error, phase));
    });
  };
}

/**
 * The name that the certificate is for: the URL's host, without a final dot (RFC 6066 3), or none
 * for an address. Undici would take it from a request's Host header.
 */
function nameFor(host: string): Readonly<{ host: string; servername: string }> {
  return { host, servername: net.isIP(host) === 0 ? host.replace(/\.$/, '') : '' };
}

/**
 * Rejects when any answer is denied. To keep the good ones would let a name with one public and
 * one private address through, and would leave to chance which of them is dialled next time.
 */
function guardedLookup(policy: AddressPolicy, lookup: LookupAll): net.LookupFunction {
  return (host, _options, callback) => {
    lookup(host, { all: true }).then(
      (answers) => {
        if (answers.some(({ address }) => policy.denies(address))) {
          callback(new BlockedTargetError(host), []);
        } else if (answers.length === 0) {
          callback(new ConnectError('dns', `${host} has no address`), []);
        } else callback(null, [...answers]);
      },
      (cause: unknown) => {
        const message = cause instanceof Error ? cause.message : String(cause);
        callback(new ConnectError('dns', message, { cause }), []);
      },
    );
  };
}

function asConnectError(error: NodeJS.ErrnoException, phase: 'connect' | 'tls'): Error {
  if (error instanceof BlockedTargetError || error instanceof ConnectError) return error;
  const message = error.message === '' ? (error.code ?? error.name) : error.message;
  return new ConnectError(codeOf(error, phase), message, { cause: error });
}

function codeOf({ code }: NodeJS.ErrnoException, phase: 'connect' | 'tls'): ConnectError['code'] {
  if (code === 'ETIMEDOUT') return 'timeout';
  return phase === 'tls' && CERTIFICATE_CODES.has(code) ? 'certificate' : phase;
}

/** Made once: reading the authorities' certificates anew would cost each connection milliseconds. */
function secureContext(ca: readonly string[]): tls.SecureContext {
  // Without `ca` Node's own list holds, and with it what NODE_EXTRA_CA_CERTS adds to that.
  const trust = ca.length === 0 ? {} : { ca: [...tls.rootCertificates, ...ca] };
  return tls.createSecureContext({ minVersion: 'TLSv1.2', ...trust });
}
