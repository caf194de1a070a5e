/**
 * Settings that cannot be worked with, or that do not fit what they name; a restart would find the same. Says every
 * problem that is known, so that one round of mending is enough. The command line ends with status 2.
 */
export class ConfigError extends Error {
  readonly problems: readonly string[];

  constructor(...problems: readonly string[]) {
    super(`The configuration is refused:\n${problems.map((p) => `- ${p}`).join('\n')}`);
    this.name = 'ConfigError';
    this.problems = problems;
  }
}
