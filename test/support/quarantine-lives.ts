import { randomUUID } from 'node:crypto';
import type { QuarantineCommand } from '../../src/domain/quarantine-language.ts';
import {
  type SenderFilterCommand,
  senderFilter,
  senderFilterStream,
} from '../../src/domain/sender-filter.ts';
import type { EventLog } from '../../src/eventlog/eventlog.ts';
import { handleCommand } from '../../src/eventlog/handle-command.ts';
import { meta } from './events.ts';
import { NOW } from './held-message.ts';
import { discard, finish, hold, reject, release, start, tell } from './quarantine-log.ts';

export const RECIPIENTS = { 7: ['r0@d7.example', 'r1@d7.example'], none: ['r2@elsewhere.example'] };
const retrain: QuarantineCommand = { type: 'RequestRetrain', class: 'spam' };
const learned: QuarantineCommand = {
  type: 'FinishRetrain',
  class: 'spam',
  outcome: 'learned',
  status: 200,
};
const discarded: QuarantineCommand = { type: 'FinishDiscard' };

/** Every way that a message can go, where it then is, and what is left to do. */
export const MESSAGE_LIVES: Readonly<
  Record<string, readonly [state: string, intents: string, ...QuarantineCommand[]]>
> = {
  'just held': ['held', ''],
  'to be released': ['release_requested', 'release', release()],
  'being released': ['release_requested', 'release', release(), start],
  'put off': ['release_requested', 'release', release(), start, finish(1, { 0: 'deferred' })],
  'released in two tries': [
    ...(['released', '', release(), start, finish(1, { 0: 'accepted', 1: 'unknown' })] as const),
    ...[start, finish(2, { 1: 'accepted', 2: 'accepted' })],
  ],
  'released in two parts': [
    ...(['released', '', release([0]), start, finish(1, { 0: 'accepted' })] as const),
    ...[release(), start, finish(1, { 1: 'accepted', 2: 'accepted' })],
  ],
  'released in part': ['held', '', release([0]), start, finish(1, { 0: 'accepted' })],
  refused: [
    ...(['release_failed', '', release(), start] as const),
    finish(1, { 0: 'accepted', 1: 'refused', 2: 'accepted' }),
  ],
  'without a route': ['release_failed', '', release(), start, finish(1, {}, 'no_route')],
  'cut off once': ['release_requested', 'release', release(), start, start],
  'to be discarded': ['discard_requested', 'discard', discard],
  discarded: ['discarded', '', discard, discarded],
  'to be rejected': ['reject_requested', 'reject', reject],
  'rejected late': [
    ...(['rejected', '', reject, start, finish(1, { 0: 'deferred' })] as const),
    ...[start, finish(2, { 0: 'accepted' })],
  ],
  'not rejected': ['held', '', reject, start, finish(1, { 0: 'refused' })],
  'to be taught': ['held', 'retrain/1', retrain],
  'taught after its end': ['discarded', '', discard, discarded, retrain, learned],
  'taught and to be discarded': ['discard_requested', 'discard,retrain/1', retrain, discard],
  expired: ['expired', '', { type: 'Expire' }],
  vanished: ['vanished', '', { type: 'Vanish' }],
  'vanished while it was to be released': ['vanished', '', release(), { type: 'Vanish' }],
};

/** Holds a message for every way that one can go, and goes it; gives their ids by life. */
export async function liveThroughMessages(log: EventLog): Promise<Map<string, string>> {
  const ids = new Map<string, string>();
  for (const [name, [, , ...commands]] of Object.entries(MESSAGE_LIVES)) {
    const id = await hold(log, { recipients: RECIPIENTS, sender: `${ids.size}@spam.example` });
    ids.set(name, id);
    for (const command of commands) await tell(log, id, command);
  }
  return ids;
}

/** Sender filters 1 to 4, of which the second and the third have ended. */
export async function liveThroughFilters(log: EventLog, madeBy: string | null): Promise<void> {
  const created: SenderFilterCommand = {
    type: 'CreateSenderFilter',
    data: {
      kind: 'block',
      scope: 'recipient',
      mail_domain: '7',
      expires_at: NOW,
      made_by: madeBy,
    },
    sender: '@spam.example',
    recipient: 'r0@d7.example',
  };
  const ends: (SenderFilterCommand | null)[] = [
    null,
    { type: 'DeleteSenderFilter' },
    { type: 'ExpireSenderFilter', now: NOW },
    null,
  ];
  for (const [index, end] of ends.entries()) {
    const id = String(index + 1);
    for (const command of end === null ? [created] : [created, end]) {
      await handleCommand(log, senderFilter, {
        stream: senderFilterStream(id),
        resource: { type: 'sender_filter', id },
        mailDomains: ['7'],
        command,
        meta,
        commandId: randomUUID(),
      });
    }
  }
}
