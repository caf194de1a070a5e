import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** What the program counts about itself, in the Prometheus text format. */
export type Metrics = Readonly<{
  registry: Registry;
  requests: Histogram<'route' | 'method' | 'status'>;
  exportedLines: Counter;
  runningExports: Gauge;
  droppedWindows: Counter;
  deprecatedRequests: Counter<'route'>;
  webhookAttempts: Histogram<'outcome'>;
}>;

/** prom-client calls these gauges `_total`, which promtool's check refuses. */
const MISNAMED = [
  'nodejs_active_handles_total',
  'nodejs_active_requests_total',
  'nodejs_active_resources_total',
];

export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  for (const name of MISNAMED) registry.removeSingleMetric(name);
  return {
    registry,
    requests: new Histogram({
      name: 'mailguard_http_request_duration_seconds',
      help: 'Time from the first byte of a request to the last of its answer.',
      labelNames: ['route', 'method', 'status'],
      buckets: [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5],
      registers: [registry],
    }),
    exportedLines: new Counter({
      name: 'mailguard_audit_exported_lines_total',
      help: 'Lines written by audit exports.',
      registers: [registry],
    }),
    runningExports: new Gauge({
      name: 'mailguard_audit_exports_running',
      help: 'Audit exports under way.',
      registers: [registry],
    }),
    webhookAttempts: new Histogram({
      name: 'mailguard_webhook_attempt_duration_seconds',
      help: 'Time of one HTTP try of a delivery.',
      labelNames: ['outcome'],
      buckets: [0.005, 0.02, 0.1, 0.5, 1, 5, 15],
      registers: [registry],
    }),
    deprecatedRequests: new Counter({
      name: 'mailguard_deprecated_requests_total',
      help: 'Requests to routes that will go, whatever their answer.',
      labelNames: ['route'],
      registers: [registry],
    }),
    droppedWindows: new Counter({
      name: 'mailguard_use_windows_dropped_total',
      help: 'Windows of use that were dropped because the log was away for too long.',
      registers: [registry],
    }),
  };
}

/** A gauge whose value is asked for when it is scraped. */
export function gaugeOf(
  { registry }: Metrics,
  options: Readonly<{ name: string; help: string; labelNames?: string[] }>,
  collect: (gauge: Gauge) => void | Promise<void>,
): void {
  new Gauge({
    ...options,
    registers: [registry],
    async collect() {
      this.reset();
      // A figure that cannot be had now is left out, where its 0 would be a lie; the others matter the more.
      await (async () => collect(this))().catch(() => {
        if (options.labelNames === undefined) this.remove();
      });
    },
  });
}
