import { DomainError } from '../../domain/errors.ts';
import { authenticate } from '../authenticate.ts';
import { clientAddressOf, isLoopbackAddress } from '../client-address.ts';
import { openapiJson, openapiYaml } from '../openapi.ts';
import { type AnyRoute, route } from '../route.ts';
import { z } from '../zod.ts';

const tag = 'Service';
const everybody = { operation: 'public' } as const;

const livez = route({
  id: 'livez',
  method: 'get',
  path: '/livez',
  atRoot: true,
  tag,
  summary: 'Whether the process runs.',
  permission: everybody,
  reply: z.object({ alive: z.literal(true) }),
  errors: [],
  handle: async () => ({ data: { alive: true as const } }),
});

const Readiness = z
  .object({
    ready: z.boolean(),
    reasons: z.array(z.string()),
    warnings: z.array(z.string()),
    projections: z.array(
      z.object({ name: z.string(), position: z.string(), lag_events: z.string() }),
    ),
  })
  .openapi('Readiness');

const readyz = route({
  id: 'readyz',
  method: 'get',
  path: '/readyz',
  atRoot: true,
  tag,
  summary: 'Whether the process should get traffic, and if not, why.',
  permission: everybody,
  reply: Readiness,
  errors: ['unavailable'],
  async handle(context) {
    const reasons = await context.unready();
    if (reasons.length > 0) {
      throw new DomainError('unavailable', 'Not ready; see data.reasons.', {
        ready: false,
        reasons,
        warnings: context.warnings(),
        projections: [],
        retry_after_seconds: 1,
      });
    }
    const projections = (await context.projector.status()).map((status) => ({
      name: status.name,
      position: status.position.toString(),
      lag_events: status.lagEvents.toString(),
    }));
    return { data: { ready: true, reasons: [], warnings: [...context.warnings()], projections } };
  },
});

const metrics = route({
  id: 'metrics',
  method: 'get',
  path: '/metrics',
  atRoot: true,
  tag,
  summary: 'Metrics for Prometheus: to a loopback client without a key, to others with one.',
  permission: everybody,
  reply: z.null(),
  produces: { 'text/plain': 'Prometheus text format.', 'application/openmetrics-text': 'Alike.' },
  errors: ['unauthorized'],
  async handle(context, { request, response }) {
    const address = clientAddressOf(context.config.trustedProxies)(request);
    if (!isLoopbackAddress(address)) {
      const arrival = { nowMs: context.clock.nowMs(), address };
      const { refusal } = authenticate(request, context.liveKeys, arrival);
      if (refusal !== null) {
        response.setHeader('WWW-Authenticate', 'ApiKey realm="mailguard"');
        throw new DomainError('unauthorized', 'A valid API key is needed in X-API-Key.');
      }
    }
    const { registry } = context.metrics;
    return { text: await registry.metrics(), contentType: registry.contentType };
  },
});

/** The routes about the program itself; the contract among them is printed from all routes. */
export const serviceRoutes = (all: () => readonly AnyRoute[]): readonly AnyRoute[] => [
  livez,
  readyz,
  metrics,
  route({
    id: 'openapiYaml',
    method: 'get',
    path: '/openapi.yaml',
    tag,
    summary: 'This contract, as OpenAPI 3.1 in YAML.',
    permission: everybody,
    reply: z.null(),
    produces: { 'application/yaml': 'The OpenAPI document.' },
    errors: [],
    handle: async () => ({
      text: openapiYaml(all()),
      contentType: 'application/yaml; charset=utf-8',
    }),
  }),
  route({
    id: 'openapiJson',
    method: 'get',
    path: '/openapi.json',
    tag,
    summary: 'This contract, as OpenAPI 3.1 in JSON; the document itself, without the envelope.',
    permission: everybody,
    reply: z.null(),
    errors: [],
    handle: async () => ({
      text: openapiJson(all()),
      contentType: 'application/json; charset=utf-8',
    }),
  }),
];
