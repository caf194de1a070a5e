import { MessageId } from '../quarantine-view.ts';
import type { AnyRoute } from '../route.ts';
import { z } from '../zod.ts';

const BASE = '/mail/quarantine';
const ById = z.strictObject({ id: MessageId });
const InQueue = z.strictObject({
  node_id: z.string().regex(/^[A-Za-z0-9._-]{1,128}$/, 'is no id of a node'),
  queue_id: z.string().regex(/^[A-Za-z0-9]{4,64}$/, 'is no queue id'),
});

/** One message by its own id. */
export const MESSAGE_BY_ID = { path: `${BASE}/messages/{id}`, params: ById } as const;

type At = Readonly<{
  path: string;
  params: typeof ById | typeof InQueue;
  /** The operation's id, told apart by the path's kind. */
  named: (id: string) => string;
}>;

/**
 * The same route at both paths of a message: by its own id, and by node and queue id. The first comes
 * first, since no node is called `messages`.
 */
export function atBothPaths(suffix: string, make: (at: At) => AnyRoute): readonly AnyRoute[] {
  return [
    make({ path: `${MESSAGE_BY_ID.path}/${suffix}`, params: ById, named: (id) => id }),
    make({
      path: `${BASE}/{node_id}/{queue_id}/${suffix}`,
      params: InQueue,
      named: (id) => `${id}InQueue`,
    }),
  ];
}
