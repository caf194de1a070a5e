import type { DeliveryStatus } from '../domain/webhook-delivery.ts';
import type { Context } from './context.ts';
import { gaugeOf } from './metrics.ts';

/** What is asked of the running parts when a scrape comes. */
export function observeGateway(context: Context): void {
  const { metrics, projector, log, liveKeys, quarantine } = context;
  const ofProjections = (
    name: string,
    help: string,
    read: (status: Awaited<ReturnType<typeof projector.status>>[number]) => number,
  ) =>
    gaugeOf(metrics, { name, help, labelNames: ['projection'] }, async (gauge) => {
      for (const status of await projector.status()) {
        gauge.set({ projection: status.name }, read(status));
      }
    });
  ofProjections('mailguard_projection_lag_events', 'Events that are not applied yet.', (status) =>
    Number(status.lagEvents),
  );
  ofProjections(
    'mailguard_projection_lag_seconds',
    'Age of the oldest event that is not applied yet.',
    (status) => status.lagSeconds,
  );
  ofProjections('mailguard_projection_stopped', '1 when a poison event stopped it.', (status) =>
    status.stoppedBy === null ? 0 : 1,
  );
  observeHealth(context);
  gaugeOf(
    metrics,
    { name: 'mailguard_eventlog_head_position', help: 'Position of the last event.' },
    async (gauge) => gauge.set(Number((await log.head()).position)),
  );
  gaugeOf(
    metrics,
    {
      name: 'mailguard_eventlog_append_queue_commands',
      help: 'Commands that wait to be appended.',
    },
    (gauge) => gauge.set(log.queueDepth()),
  );
  observeStore(context);
  gaugeOf(
    metrics,
    {
      name: 'mailguard_quarantine_open_actions',
      help: 'Actions that were asked for and have no outcome.',
      labelNames: ['kind'],
    },
    async (gauge) => {
      for (const { kind, actions } of await quarantine.countOpenActions())
        gauge.set({ kind }, actions);
    },
  );
  observeWebhooks(context);
  gaugeOf(metrics, { name: 'mailguard_api_keys', help: 'Keys in memory.' }, (gauge) =>
    gauge.set([...liveKeys.all()].length),
  );
}

/** What `/readyz` says, as figures. */
function observeHealth(context: Context): void {
  const { metrics, log } = context;
  gaugeOf(
    metrics,
    { name: 'mailguard_ready', help: '1 while /readyz has no reason against traffic.' },
    async (gauge) => gauge.set((await context.unready()).length === 0 ? 1 : 0),
  );
  gaugeOf(
    metrics,
    { name: 'mailguard_warnings', help: 'What /readyz warns of, such as a helper that is away.' },
    (gauge) => gauge.set(context.warnings().length),
  );
  gaugeOf(
    metrics,
    { name: 'mailguard_database_up', help: '1 while the database answers.' },
    async (gauge) =>
      gauge.set(
        await log.head().then(
          () => 1,
          () => 0,
        ),
      ),
  );
}

/** Each store by its own name: what fills a spool is ours to bound, what fills a hold queue is the mail server's. */
function observeStore({ metrics, quarantine: { store, spool } }: Context): void {
  const name = spool === null ? 'hold_queue' : 'spool';
  const ofStore = (what: string, help: string, read: (usage: Usage) => number) =>
    gaugeOf(metrics, { name: `mailguard_${name}_${what}`, help }, (gauge) =>
      gauge.set(read(store.usage())),
    );
  if (spool === null) {
    ofStore('messages', 'Messages on hold, as of the last look.', ({ messages }) => messages);
    ofStore('bytes', 'What the files on hold take.', ({ bytes }) => bytes);
    return;
  }
  ofStore('messages', 'Messages whose bytes are kept.', ({ messages }) => messages);
  ofStore('bytes', 'What the spool holds.', ({ bytes }) => bytes);
  ofStore('max_bytes', 'What the spool may hold in all.', ({ bytesMax }) => bytesMax ?? 0);
}

type Usage = ReturnType<Context['quarantine']['store']['usage']>;

/** What this process delivers; subscriptions by their ids, of which there are few. */
function observeWebhooks({ metrics, log, webhooks }: Context): void {
  const ofEach = (
    name: string,
    help: string,
    read: (status: DeliveryStatus, head: bigint) => number,
  ) =>
    gaugeOf(metrics, { name, help, labelNames: ['webhook'] }, async (gauge) => {
      const { position: head } = await log.head();
      for (const { id, status } of webhooks.subscriptions()) {
        gauge.set({ webhook: String(id) }, read(status(), head));
      }
    });
  ofEach('mailguard_webhook_lag_events', 'Positions between its cursor and the head.', (s, head) =>
    Number(head - s.position),
  );
  ofEach(
    'mailguard_webhook_retries',
    'Events that are tried again by themselves.',
    (s) => s.retries,
  );
  ofEach(
    'mailguard_webhook_parked',
    'Events that were given up until they are resent.',
    (s) => s.parked,
  );
  ofEach('mailguard_webhook_in_flight', 'Deliveries under way.', (s) => s.inFlight);
  ofEach('mailguard_webhook_breaker_open', '1 while its endpoint is taken to be down.', (s) =>
    s.breaker === 'open' ? 1 : 0,
  );
  // Found once for each outcome, of which there are few: it is asked for with every delivery.
  const known = new Map<string, ReturnType<typeof metrics.webhookAttempts.labels>>();
  webhooks.onAttempt((outcome, ms) => {
    const found = known.get(outcome) ?? metrics.webhookAttempts.labels(outcome);
    known.set(outcome, found);
    found.observe(ms / 1_000);
  });
}
