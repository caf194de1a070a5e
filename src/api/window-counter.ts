import type { Clock } from '../clock.ts';
import type { LiveKey } from '../projections/live-keys.ts';
import { networkOf } from './client-address.ts';
import type { HeldWindows } from './held-windows.ts';
import {
  type DenialWindow,
  denialSlot,
  emptyWindow,
  note,
  type Outcome,
  OVERFLOW,
  type UseKind,
  type UseWindow,
  useSlot,
} from './use-windows.ts';

const MINUTE_MS = 60_000;
const WINDOW_MS: Readonly<Record<UseKind, number>> = {
  requests: MINUTE_MS,
  audit_reads: 3_600_000,
};
/** In all, and in one minute; what is beyond is counted in one more window, so it is never lost. */
const DENIALS_PER_MINUTE_MAX = 100;

/** Counts each request, answered or refused, in the window of its slot. */
export type WindowCounter = Readonly<{
  used: (key: LiveKey, kind: UseKind, outcome: Outcome, address: string) => void;
  denied: (reason: string, key: LiveKey | null, address: string) => void;
}>;

export function windowCounter(windows: HeldWindows, clock: Clock): WindowCounter {
  const denials = denialBudget();
  return {
    used(key, kind, outcome, address) {
      const now = clock.nowMs();
      const window = windows.at(useSlot(key.id, kind), now, () => ({
        ...emptyWindow(now, WINDOW_MS[kind], key.principal.mailDomain),
        type: 'used',
        keyId: key.id,
        kind,
        requests: 0,
        byOutcome: {},
      })) as UseWindow;
      window.requests += 1;
      window.byOutcome[outcome] = (window.byOutcome[outcome] ?? 0) + 1;
      note(window, now, address);
    },
    denied(reason, key, address) {
      const now = clock.nowMs();
      const network = networkOf(address);
      const slot = denialSlot(reason, key?.id ?? null, network);
      const isOverflow = !windows.has(slot, now) && !denials.take(now);
      const window = windows.at(isOverflow ? denialSlot(OVERFLOW, null, '') : slot, now, () => ({
        ...emptyWindow(now, MINUTE_MS, isOverflow ? null : (key?.principal.mailDomain ?? null)),
        type: 'denied',
        keyId: isOverflow ? null : (key?.id ?? null),
        reason: isOverflow ? OVERFLOW : reason,
        count: 0,
      })) as DenialWindow;
      window.count += 1;
      note(window, now, network);
    },
  };
}

/** How many windows of refusals a minute may begin; one is kept back for the surplus. */
function denialBudget() {
  let minute = 0;
  let begun = 0;
  return {
    take(now: number): boolean {
      const current = Math.floor(now / MINUTE_MS);
      begun = current === minute ? begun + 1 : 1;
      minute = current;
      return begun < DENIALS_PER_MINUTE_MAX;
    },
  };
}
