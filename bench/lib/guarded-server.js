import { once } from 'node:events';
import { createRequire } from 'node:module';
import { route } from '../../dist/api/route.js';
import { createServer } from '../../dist/api/server.js';
import { z } from '../../dist/api/zod.js';
import { loadConfig } from '../../dist/config.js';
import { createLogger } from '../../dist/logger.js';
import { startGateway } from '../../dist/main.js';

/**
 * The whole program in a process of its own, and beside its own server another with two routes that
 * give the same answer: one to everybody, one to a key. Told by message to count database queries.
 */

const settings = JSON.parse(process.argv[2]);
const config = loadConfig({ ...settings, MAILGUARD_PORT: '0' });
const gateway = await startGateway(config, createLogger(config.logLevel));
const { context } = gateway;

const common = { method: 'get', tag: 'Bench', summary: 'For the benchmark.', errors: [] };
const reply = z.object({ ok: z.literal(true) });
const handle = async () => ({ data: { ok: true } });
const routes = [
  route({
    ...common,
    id: 'open',
    path: '/open',
    permission: { operation: 'public' },
    reply,
    handle,
  }),
  route({
    ...common,
    id: 'guarded',
    path: '/guarded',
    permission: { operation: 'read', reach: 'mail_domain' },
    reply,
    handle,
  }),
];
const server = createServer(context, routes);
server.listen(0, '127.0.0.1');
await once(server, 'listening');

// The program's own copy of the driver, so that every query it makes is seen.
const require = createRequire(new URL('../../dist/main.js', import.meta.url));
const { Client } = require('pg');
const { query } = Client.prototype;

process.on('message', async (message) => {
  if (message === 'count') {
    const texts = new Map();
    Client.prototype.query = function counted(...parameters) {
      const [first] = parameters;
      const text = (typeof first === 'string' ? first : (first?.text ?? 'copy'))
        .trim()
        .replaceAll(/\s+/g, ' ');
      texts.set(text, (texts.get(text) ?? 0) + 1);
      return query.apply(this, parameters);
    };
    process.once('message', () => {
      Client.prototype.query = query;
      process.send({ queries: [...texts] });
    });
  }
  if (message === 'cpu') process.send({ cpu: process.cpuUsage() });
  if (message === 'stop') {
    server.close();
    server.closeAllConnections();
    await gateway.stop();
    process.exit();
  }
});
process.send({ port: server.address().port, keys: [...context.liveKeys.all()].length });
