import { type Clock, toTimestamp } from '../clock.ts';
import type { AuditExported } from '../domain/events.ts';
import type { EventLog, EventMeta } from '../eventlog/eventlog.ts';
import { commandIdOf, newCommandId, toAppend } from '../eventlog/handle-command.ts';

/** Records who read the audit log: once per reader and hour, and every export at its end. */
export type AuditTrail = Readonly<{
  /** Resolves when this hour's read by this reader is in the log; nothing is read before. */
  recordRead: (meta: EventMeta) => Promise<void>;
  recordExport: (meta: EventMeta, data: AuditExported['data'], filter: string) => Promise<void>;
}>;

const HOUR_MS = 3_600_000;

export function createAuditTrail(log: EventLog, clock: Clock): AuditTrail {
  const recorded = new Map<string, number>();
  return {
    async recordRead(meta) {
      const reader = `${meta.actor.type}:${meta.actor.id}`;
      const hour = Math.floor(clock.nowMs() / HOUR_MS);
      if (recorded.get(reader) === hour) return;
      const startedAt = toTimestamp(new Date(hour * HOUR_MS));
      // The id is the reader's and the hour's, so a restart, or two reads at once, record it once.
      const commandId = commandIdOf(hour * HOUR_MS, `${reader}/${startedAt}`);
      const event = toAppend(
        { type: 'audit.read', data: { hour: startedAt } },
        {
          resource: { type: 'audit_log', id: 'main' },
          mailDomains: [],
          commandId,
          step: reader,
          meta,
        },
      );
      await log.append({
        stream: `audit_read-${meta.actor.type}_${meta.actor.id}`,
        expected: 'any',
        events: [event],
      });
      recorded.set(reader, hour);
      // Readers of past hours are of no use any more.
      if (recorded.size > 10_000) recorded.clear();
    },
    async recordExport(meta, data, filter) {
      const commandId = newCommandId();
      const event = toAppend(
        {
          type: 'audit.exported',
          data,
          personal: [{ name: 'filter', value: filter, class: 'content' }],
        },
        { resource: { type: 'audit_log', id: 'main' }, mailDomains: [], commandId, meta },
      );
      await log.append({ stream: `audit_export-${commandId}`, expected: 'none', events: [event] });
    },
  };
}
