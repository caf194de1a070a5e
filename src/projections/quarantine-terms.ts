/** What of a message can be searched for exactly. */
export type Terms = Readonly<{
  node_id: string;
  sender: string | null;
  recipients: readonly Readonly<{ addresses: readonly string[] }>[];
  symbols: readonly string[];
  reason: string;
  mail_domains: readonly (number | string)[];
}>;

/** The exact terms of a message, as they are indexed; addresses without regard to case. */
export function termsOf(message: Terms): string[] {
  const { sender, recipients, symbols } = message;
  const terms = [
    term.reason(message.reason),
    term.node(message.node_id),
    ...message.mail_domains.map((id) => term.domain(Number(id))),
    ...symbols.map(term.symbol),
    ...recipients.flatMap(({ addresses }) => addresses.map(term.recipient)),
  ];
  if (sender !== null) terms.push(term.sender(sender));
  const domain = sender?.slice(sender.lastIndexOf('@') + 1) ?? '';
  if (sender?.includes('@') === true) terms.push(term.senderDomain(domain));
  return [...new Set(terms)];
}

/** Each kind of term, from what a filter gives. */
export const term = {
  domain: (id: number) => `domain:${id}`,
  node: (nodeId: string) => `node:${nodeId}`,
  reason: (reason: string) => `reason:${reason}`,
  state: (state: string) => `state:${state}`,
  symbol: (symbol: string) => `symbol:${symbol}`,
  sender: (address: string) => `sender:${address.toLowerCase()}`,
  senderDomain: (domain: string) => `sender_domain:${domain.toLowerCase()}`,
  recipient: (address: string) => `recipient:${address.toLowerCase()}`,
} as const;
