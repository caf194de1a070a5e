/** `open`: the endpoint is down, and looked at now and then; `half_open`: it is on probation. */
export type BreakerState = 'closed' | 'open' | 'half_open';

/** Where the deliveries of one subscription stand in the process that makes them. */
export type DeliveryStatus = Readonly<{
  position: bigint;
  retries: number;
  parked: number;
  inFlight: number;
  breaker: BreakerState;
}>;

/** Where an event stands, and which number it has for a subscription; null before the first epoch. */
export type LocatedEvent = Readonly<{
  position: bigint;
  /** The ordering key: the event's stream. */
  key: string;
  epoch: number;
  sequence: number | null;
}>;

/** What a position is in a subscription's numbering: its epoch, and how many of the epoch's matches lie at or below. */
export type Numbering = Readonly<{ epoch: number; sequence: number }>;

/** From where to where to read; up to `until` every change of the subscription must be known. */
export type PullRange = Readonly<{
  after: bigint;
  /** That of `after`; null has it counted, which takes longer the more lies before it. */
  numbering: Numbering | null;
  until: bigint;
  limit: number;
}>;

/** Events as a subscription has them on the wire, in their order, and how far was looked for them. */
export type PulledEvents = Readonly<{
  texts: readonly string[];
  scannedTo: bigint;
  /** That of `scannedTo`. */
  numbering: Numbering;
  hasMore: boolean;
}>;

/** What a test message found on its way, step by step; a step that was not reached is null. */
export type PingResult = Readonly<{
  delivered: boolean;
  outcome: string;
  status: number | null;
  ms: number;
  addresses: readonly string[];
  connectedTo: string | null;
  tls: Readonly<{ protocol: string; cipher: string; validTo: string | null }> | null;
  error: string | null;
  excerpt: string | null;
}>;

/**
 * What deliveries do for those who ask: routes and metrics. `Row` is a subscription as the read model has it,
 * of which the domain knows nothing.
 */
export type WebhookDeliveries<Row> = Readonly<{
  /** Null for a URL that deliveries may go to, else why not. */
  refuseTarget: (url: string) => Promise<string | null>;
  /** Posts a signed test message, and tells what it found on its way. */
  ping: (row: Row) => Promise<PingResult>;
  /** Resolves once nothing is begun any more as the subscription was before. */
  changed: (id: number) => Promise<void>;
  /** An event as a subscription has it; null when it is not among its own. */
  locate: (row: Row, eventId: string) => Promise<LocatedEvent | null>;
  /** What a subscription is to have between two positions, up to which its every change is known. */
  pull: (row: Row, range: PullRange) => Promise<PulledEvents>;
  /** When what comes next for it was recorded; null when it has everything. */
  oldestWaiting: (row: Row) => Promise<string | null>;
  /** Those that this process delivers. */
  subscriptions: () => readonly Readonly<{ id: number; status: () => DeliveryStatus }>[];
  /** Tells of each try when it has ended. */
  onAttempt: (observe: (outcome: string, ms: number) => void) => void;
}>;
