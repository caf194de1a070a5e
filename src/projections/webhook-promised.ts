import { z } from 'zod';
import { type Described, event, Id, Instant } from './webhook-data.ts';

/** Events that have a name and a shape, and no source yet. */
export const PROMISED: Readonly<Record<string, Described>> = {
  'reputation.threshold_crossed': event('The reputation of a sending host crossed a threshold.', {
    direction: z.enum(['below', 'above']),
    threshold: z.number().meta({ examples: [60] }),
    score: z.number().meta({ examples: [58.5] }),
    measured_at: Instant,
  }),
  'license.changed': event('The license was replaced, renewed, or changed its state.', {
    state: z.enum(['valid', 'grace', 'expired', 'invalid']),
    tier: z.string().nullable(),
    valid_until: Instant.nullable(),
  }),
  'cluster.node_joined': event('A node joined the cluster.', {
    node_id: Id.meta({ examples: ['node-2'] }),
    version: z.string().meta({ examples: ['0.1.0'] }),
    joined_at: Instant,
  }),
  'cluster.node_left': event('A node left the cluster, or is lost.', {
    node_id: Id.meta({ examples: ['node-2'] }),
    state: z.enum(['stopped', 'lost', 'removed']),
    last_seen_at: Instant.nullable(),
  }),
  'dkim.rotation_due': event('A DKIM key of a mail domain is due to be replaced.', {
    mail_domain: Id.meta({ examples: ['7'] }),
    selector: z.string().meta({ examples: ['mg202605'] }),
    created_at: Instant,
    due_at: Instant,
  }),
  'cert.expiring': event('A certificate that is watched will expire soon.', {
    certificate: Id,
    expires_at: Instant,
    days_left: z.int().meta({ examples: [14] }),
  }),
};
