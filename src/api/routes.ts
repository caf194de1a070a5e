import type { AnyRoute } from './route.ts';
import { keyActivity } from './routes/api-key-activity.ts';
import { rotateKey } from './routes/api-key-rotation.ts';
import { apiKeyRoutes } from './routes/api-keys.ts';
import { auditRoutes } from './routes/audit.ts';
import { docsRoutes } from './routes/docs.ts';
import { mailDomainRoutes } from './routes/mail-domains.ts';
import { quarantineRoutes } from './routes/quarantine.ts';
import { senderFilterRoutes } from './routes/sender-filters.ts';
import { serviceRoutes } from './routes/service.ts';
import { webhookActionRoutes } from './routes/webhook-actions.ts';
import { webhookDeliveryRoutes } from './routes/webhook-deliveries.ts';
import { webhookEventTypeRoutes } from './routes/webhook-event-types.ts';
import { webhookEventRoutes } from './routes/webhook-events.ts';
import { webhookReplayRoutes } from './routes/webhook-replays.ts';
import { webhookStatsRoute } from './routes/webhook-stats.ts';
import { webhookRoutes } from './routes/webhooks.ts';

/** The table: the server, `openapi.yaml` and the generated tests all come from it. */
export const routes: readonly AnyRoute[] = [
  ...apiKeyRoutes,
  rotateKey,
  keyActivity,
  ...quarantineRoutes,
  ...mailDomainRoutes,
  ...senderFilterRoutes,
  ...auditRoutes,
  ...webhookRoutes,
  ...webhookActionRoutes,
  webhookStatsRoute,
  ...webhookDeliveryRoutes,
  ...webhookEventRoutes,
  ...webhookReplayRoutes,
  ...webhookEventTypeRoutes,
  ...serviceRoutes(() => routes),
  ...docsRoutes,
];
