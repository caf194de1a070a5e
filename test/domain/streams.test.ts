import { expect, it } from 'vitest';
import { apiKeyStream, apiKeyUsageStream } from '../../src/domain/api-key.ts';
import { quarantineBulkStream } from '../../src/domain/quarantine-bulk.ts';
import {
  messageReadsStream,
  quarantinedMessageStream,
} from '../../src/domain/quarantined-message.ts';
import { senderFilterStream } from '../../src/domain/sender-filter.ts';
import { webhookNotesStream, webhookStream, webhookTarget } from '../../src/domain/webhook.ts';

// Under other names, what is stored would not be found again.
it.each([
  [apiKeyStream(43), 'api_key-43'],
  [apiKeyUsageStream(43), 'api_key_usage-43'],
  [quarantinedMessageStream('a'), 'quarantined_message-a'],
  [messageReadsStream('a'), 'quarantined_message_reads-a'],
  [quarantineBulkStream('a'), 'quarantine_bulk-a'],
  [senderFilterStream('a'), 'sender_filter-a'],
  [webhookStream('a'), 'webhook-a'],
  [webhookNotesStream('a'), 'webhook_notes-a'],
])('a stream is called %s for ever', (name, expected) => expect(name).toBe(expected));

it.each([
  [7, ['7']],
  [null, []],
])('an event of a webhook of mail domain %s is about it, and seen by %j', (mailDomain, seenBy) =>
  expect(webhookTarget({ id: 43, mailDomain })).toMatchObject({
    resource: { type: 'webhook', id: '43' },
    mailDomains: seenBy,
  }),
);
