/** What a loop says of work that fails time after time: enough to be found, and not a line for each time. */
export type Outage = Readonly<{
  failed: (error: unknown) => void;
  /** It works; says so where it did not before. */
  works: () => void;
}>;

type Words = Readonly<{ failing: string; again: string }>;
type Logger = Readonly<{ warn: (fields: object, message: string) => void }>;

const REPEAT_MS = 60_000;

/** Says the first failure at once, later ones once a minute with how many there were, and then the end of them. */
export function createOutage(
  logger: Logger,
  { failing, again }: Words,
  nowMs: () => number = () => performance.now(),
): Outage {
  let failures = 0;
  let saidAtMs = 0;
  return {
    failed(error) {
      failures += 1;
      if (failures > 1 && nowMs() - saidAtMs < REPEAT_MS) return;
      saidAtMs = nowMs();
      logger.warn({ err: error, failures }, failing);
    },
    works() {
      if (failures > 0) logger.warn({ failures }, again);
      failures = 0;
    },
  };
}
