import { saveWebhookSecret } from '../db/webhook-secrets.ts';
import { issueWebhookSecret, parseWebhookSecret, secretFingerprint } from '../secret-text.ts';
import { webhookSecretPurpose } from '../secrets.ts';
import type { Context } from './context.ts';
import { invalid } from './input.ts';
import { BASE_PATH } from './paths.ts';
import type { Answer } from './route.ts';
import type { WebhookAnswer } from './webhook-commands.ts';
import type { NewWebhookView } from './webhook-view.ts';
import { z } from './zod.ts';

/** A secret that callers may bring along. */
export const GivenSecret = z.string().max(256).nullish().openapi({
  description: '`whsec_` and 24 to 64 random bytes in base64; one is made when it is left out.',
});

const SECRET_FORM = 'must be whsec_ and 24 to 64 random bytes in base64';

/** Refuses a secret that is none, before anything is done. */
export function requireSecret(given: string | null): void {
  if (given === null || parseWebhookSecret(given) !== null) return;
  throw invalid([{ path: 'secret', message: SECRET_FORM }]);
}

/** Makes a secret, or takes the given one, and keeps it sealed before any event names it. */
export async function keepSecret(
  { pool, secrets }: Context,
  id: number,
  given: string | null,
): Promise<Readonly<{ secret: string; fingerprint: string }>> {
  const secret = given ?? issueWebhookSecret();
  const bytes = parseWebhookSecret(secret);
  if (bytes === null) throw invalid([{ path: 'secret', message: SECRET_FORM }]);
  const fingerprint = secretFingerprint(bytes);
  const purpose = webhookSecretPurpose(id, fingerprint);
  const sealed = secrets.seal(bytes, purpose);
  const kept = await saveWebhookSecret(pool, `webhook:${id}`, { fingerprint, sealed });
  // Kept by an earlier try of the same it is as good as new; another of the same fingerprint cannot be told apart.
  if (!secrets.unseal(kept, purpose).equals(bytes)) {
    throw invalid([{ path: 'secret', message: 'looks like another one of this webhook' }]);
  }
  return { secret, fingerprint };
}

/** An answer that tells a secret, and whose repetition does not. */
export function showSecret(
  answer: WebhookAnswer,
  { secret, status }: Readonly<{ secret: string | null; status: number }>,
): Answer<z.input<typeof NewWebhookView>> {
  const location = `${BASE_PATH}/webhooks/${answer.data.id}`;
  return {
    ...answer,
    status,
    headers: { Location: location },
    data: secret === null ? answer.data : { ...answer.data, secret },
    replay: answer.data,
  };
}
