import { expect, it } from 'vitest';
import { quarantinedMessage } from '../../src/domain/quarantined-message.ts';
import type { OpenedHistory } from '../../src/integrations/quarantine-history.ts';
import { createSmtpOutlet, type SmtpOutletDeps } from '../../src/integrations/smtp-outlet.ts';
import { added } from '../support/held-message.ts';

it.each(['release', 'reject'] as const)(
  'has no file open behind a %s of a message whose sender was erased',
  async (action) => {
    let open = 0;
    const bytes = {
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: true, value: undefined }),
        async return() {
          open -= 1;
          return { done: true, value: undefined };
        },
      }),
    };
    const store = {
      async open() {
        open += 1;
        return { sizeBytes: 0, bytes };
      },
    };
    const outlet = createSmtpOutlet({ store, relay: '127.0.0.1:25' } as unknown as SmtpOutletDeps);
    const disclosed = { sender: null, recipients: [] };
    const history = { id: 'm1', disclosed } as unknown as OpenedHistory;
    const started = quarantinedMessage.evolve(quarantinedMessage.initialState, added);
    const tried = await outlet[action](history, started, new AbortController().signal);
    expect([tried.cause, open]).toEqual(['content_gone', 0]);
  },
);
