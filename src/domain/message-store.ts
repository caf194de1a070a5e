/** Bytes that are safe on the disk, and of which no event speaks yet. */
export type ReceivedMessage = Readonly<{
  token: string;
  sizeBytes: number;
  /** SHA-256 of the bytes, in hex. */
  sha256: string;
  /** The first `HEAD_BYTES_MAX` bytes: enough for what is shown of a message in a list. */
  head: Uint8Array;
}>;

/** How much of a message is looked at for its header fields. */
export const HEAD_BYTES_MAX = 262_144;

/** A message's bytes, read once, from the start. */
export type OpenedMessage = Readonly<{ sizeBytes: number; bytes: AsyncIterable<Uint8Array> }>;

/** `bytesMax` null: whoever else has the store sees to that. */
type StoreUsage = Readonly<{ messages: number; bytes: number; bytesMax: number | null }>;

/** Where the bytes of held mail live, by message id. */
export type MessageStore = Readonly<{
  /** Null when the store has no bytes of that message (any more). */
  open: (id: string) => Promise<OpenedMessage | null>;
  /** Removes a message's bytes, durably. Idempotent; true when there were any. */
  remove: (id: string) => Promise<boolean>;
  usage: () => StoreUsage;
}>;

/**
 * A store that mail is handed in to. A message is kept before its first event is appended and removed after its
 * last, so that bytes without an event are orphans and may be swept, and an event without bytes can
 * only be one that a crash left between the two, or damage.
 */
export type MessageSpool = MessageStore &
  Readonly<{
    /**
     * Takes bytes in until their end; they are on the disk when it resolves. Rejects with
     * `payload_too_large` or `quarantine_full`, or as the source does, and then keeps nothing.
     */
    receive: (bytes: AsyncIterable<Uint8Array>) => Promise<ReceivedMessage>;
    /** Gives received bytes to a message, durably. What the message has already stays as it is. */
    keep: (received: ReceivedMessage, id: string) => Promise<void>;
    /** Forgets received bytes; nothing happens when they were kept. */
    drop: (received: ReceivedMessage) => Promise<void>;
    /** Removes what a crash has left: bytes never kept, and messages that `isKnown` does not name. */
    sweep: (
      isKnown: (ids: readonly string[]) => Promise<ReadonlySet<string>>,
    ) => Promise<Readonly<{ removed: number }>>;
  }>;
