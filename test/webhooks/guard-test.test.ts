import net from 'node:net';
import { buildConnector } from 'undici';
import { describe, expect, it } from 'vitest';
import { BlockedTargetError, guardedConnector } from '../../src/webhooks/connector.ts';
import { testGuard } from '../../src/webhooks/guard-test.ts';

type ConnectorOf = typeof guardedConnector;
const FAILED = /guard of webhook deliveries/;

describe('testGuard', () => {
  it('resolves for the connector that deliveries use', async () => {
    await expect(testGuard()).resolves.toBeUndefined();
  });

  it('notices a connector without a guard', async () => {
    const unguarded: ConnectorOf = () => buildConnector({ timeout: 500 });
    await expect(testGuard(unguarded)).rejects.toThrow(FAILED);
  });

  it('notices a guard in the lookup alone, which literals never pass', async () => {
    const inLookup: ConnectorOf = () =>
      buildConnector({
        timeout: 500,
        lookup: (host, _options, callback) => callback(new BlockedTargetError(host), []),
      });
    await expect(testGuard(inLookup)).rejects.toThrow('http://127.0.0.1 was connected');
  });

  it('notices a guard of literals alone, which names never pass', async () => {
    const literals: ConnectorOf = (policy, options) => {
      const guarded = guardedConnector(policy, options);
      const unguarded = buildConnector({ timeout: 500 });
      return (target, callback) => {
        const { hostname } = target;
        // A mapped address in brackets is what a guard of this kind would see, too.
        const isName = net.isIP(hostname.replace(/^\[|\]$/g, '')) === 0;
        (isName ? unguarded : guarded)(target, callback);
      };
    };
    await expect(testGuard(literals)).rejects.toThrow('localhost');
  });

  it('notices a guard that works over http alone', async () => {
    const plainOnly: ConnectorOf = (policy, options) => {
      const guarded = guardedConnector(policy, options);
      const unguarded = buildConnector({ timeout: 500 });
      return (target, callback) =>
        (target.protocol === 'http:' ? guarded : unguarded)(target, callback);
    };
    await expect(testGuard(plainOnly)).rejects.toThrow('https://127.0.0.1 failed, but not by');
  });

  it('notices a connector that says blocked only after it has connected', async () => {
    const tooLate: ConnectorOf = () => (target, callback) => {
      const socket = net.connect({ host: '127.0.0.1', port: Number(target.port) }, () => {
        socket.destroy();
        callback(new BlockedTargetError(target.hostname), null);
      });
    };
    await expect(testGuard(tooLate)).rejects.toThrow('the loopback listener was reached');
  });

  it('notices a connector that never answers, within two seconds', async () => {
    const startedAt = performance.now();
    await expect(testGuard(() => () => undefined)).rejects.toThrow('was not answered');
    expect(performance.now() - startedAt).toBeLessThan(2_000);
  });

  it('leaves nothing open, whatever comes of it', async () => {
    const opened: net.Socket[] = [];
    const late: ConnectorOf = () => (target, callback) => {
      const socket = net.connect({ host: '127.0.0.1', port: Number(target.port) }, () => {
        opened.push(socket);
        callback(null, socket);
      });
    };
    await expect(testGuard(late)).rejects.toThrow(FAILED);
    expect(opened.length).toBeGreaterThan(0);
    expect(opened.every((socket) => socket.destroyed)).toBe(true);
  });
});
