/** What each setting does for a command; contract.md 4 has all of them. */
export const SETTINGS: Readonly<Record<string, string>> = {
  MAILGUARD_URL:
    'The gateway to call; else the one on the data directory, or of HOST, PORT and TLS_CERT.',
  MAILGUARD_API_KEY: 'The key to call with; else that of the bootstrap-key file.',
  MAILGUARD_HOST: 'Address of the gateway (127.0.0.1).',
  MAILGUARD_PORT: 'Port of the gateway (3443).',
  MAILGUARD_TLS_CERT: 'Its certificate, a PEM file; with it the gateway speaks HTTPS.',
  MAILGUARD_TLS_KEY: 'The key of the certificate, a PEM file.',
  MAILGUARD_DATA_DIR: 'Data directory of the gateway (./data).',
  MAILGUARD_DATABASE_URL: 'The database, postgres://…; else the embedded one.',
  MAILGUARD_EVENTLOG_URL: 'The database of the event log, where it is another one.',
  MAILGUARD_MASTER_KEY: 'The master key; else that of the master-key file.',
  MAILGUARD_NODE_ID: 'Name of this node, for the events (the host name).',
  MAILGUARD_BOOTSTRAP_KEY: 'The first key; else one is made, in the bootstrap-key file.',
  MAILGUARD_TRUSTED_PROXIES: 'Proxies whose forwarded headers count, as CIDRs.',
  MAILGUARD_PUBLIC_URL: 'Where users reach the gateway.',
  MAILGUARD_QUARANTINE_STORE: 'Where held mail is kept (spool).',
  MAILGUARD_INGEST_PASSWORD: 'Basic password of rspamd’s exporter, whose user is ingest.',
  MAILGUARD_MESSAGE_BYTES_MAX: 'The largest message that is taken (50 MiB).',
  MAILGUARD_SPOOL_BYTES_MAX: 'What all held mail may take on the disk (10 GiB).',
  MAILGUARD_SMTP_RELAY: 'Where bounces go, host:port; without it nothing is rejected.',
  MAILGUARD_RSPAMD_URL: 'Controller of rspamd, for retraining.',
  MAILGUARD_RSPAMD_PASSWORD: 'Its password.',
  MAILGUARD_WEBHOOK_ALLOW_CIDRS: 'Ranges that webhooks may reach though they are not public.',
  MAILGUARD_WEBHOOK_ALLOW_HTTP: 'Plain HTTP for webhooks, true or false (false).',
  MAILGUARD_LOG_LEVEL: 'How much is logged (info).',
};

/** The settings of the commands that call the gateway, and of those that join its database. */
export const CALLER = [
  'MAILGUARD_URL',
  'MAILGUARD_API_KEY',
  'MAILGUARD_HOST',
  'MAILGUARD_PORT',
  'MAILGUARD_TLS_CERT',
  'MAILGUARD_DATA_DIR',
] as const;
export const JOINER = [
  'MAILGUARD_DATA_DIR',
  'MAILGUARD_DATABASE_URL',
  'MAILGUARD_EVENTLOG_URL',
] as const;
