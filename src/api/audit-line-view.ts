import { Instant } from './schemas.ts';
import { z } from './zod.ts';

const Reference = z.object({ type: z.string(), id: z.string(), name: z.string().nullable() });
/** One event as people and SIEMs read it. */
export const AuditLineView = z
  .object({
    position: z.string(),
    cursor: z.string().optional(),
    event_id: z.string(),
    type: z.string(),
    schema_version: z.number().int(),
    stream: z.string(),
    revision: z.string(),
    recorded_at: Instant,
    occurred_at: Instant,
    actor: Reference,
    resource: Reference.extend({ key_prefix: z.string().optional() }),
    mail_domains: z.array(z.string()),
    outcome: z.enum(['success', 'failure', 'denied']),
    request_id: z.string().nullable(),
    source: z.object({
      node: z.string(),
      ip: z.string().nullable(),
      user_agent: z.string().nullable(),
    }),
    data: z.record(z.string(), z.unknown()),
    erased: z.array(z.string()).openapi({ description: 'Members that were recorded and erased.' }),
    withheld: z.array(z.string()).openapi({ description: 'Members that you may not see.' }),
  })
  .openapi('AuditLine');
