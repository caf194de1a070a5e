import type { EventLog } from '../eventlog/eventlog.ts';
import { apiKeysProjection } from './api-keys.ts';
import { erasuresProjection } from './erasures.ts';
import { mailDomainsProjection } from './mail-domains.ts';
import type { Projection } from './projection.ts';
import { quarantineProjection } from './quarantine.ts';
import { rateLimitsProjection } from './rate-limits.ts';
import { senderFiltersProjection } from './sender-filters.ts';
import { webhooksProjection } from './webhooks.ts';

/** The projections that run. */
export const projectionsOf = (log: EventLog): readonly Projection[] => [
  apiKeysProjection,
  mailDomainsProjection,
  quarantineProjection,
  senderFiltersProjection,
  webhooksProjection,
  rateLimitsProjection,
  erasuresProjection(log),
];
