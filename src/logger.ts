import { type Logger, pino } from 'pino';

/** Where PostgreSQL tells the values of the row, or of the statement, that it refused. */
const ROW_VALUES = ['detail', 'where', 'internalQuery'];

/** Where secrets and personal values could stand in what is logged; they are replaced. */
const REDACT = [
  'key',
  '*.key',
  'password',
  '*.password',
  'authorization',
  '*.authorization',
  'cookie',
  '*.cookie',
  '*["x-api-key"]',
  '*.*["x-api-key"]',
  'err.client',
  'err.parameters',
  ...ROW_VALUES.flatMap((member) => [`err.${member}`, `err.aggregateErrors[*].${member}`]),
];

const SECRET = /nmg_[0-9a-f]{16,64}|(postgres(?:ql)?:\/\/[^:/\s]+:)[^@\s]+@/g;

/** JSON lines on standard output. What looks like a key or a URL's password never leaves. */
export function createLogger(
  level: string,
  destination?: { write: (line: string) => void },
): Logger {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: { paths: REDACT, censor: '[redacted]' },
    hooks: { streamWrite: scrub },
  };
  return destination === undefined ? pino(options) : pino(options, destination);
}

/** The last line of defence: also inside messages and stacks that nobody foresaw. */
export function scrub(line: string): string {
  if (!line.includes('nmg_') && !line.includes('://')) return line;
  return line.replace(SECRET, (_match, url: string | undefined) =>
    url === undefined ? 'nmg_[redacted]' : `${url}[redacted]@`,
  );
}
