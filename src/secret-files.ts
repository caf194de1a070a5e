import { readFileSync } from 'node:fs';

/**
 * An environment whose secrets may stand in files (`NAME_FILE`) instead of in itself; adds what is wrong with
 * that to `problems`.
 */
export function withSecretFiles(
  env: NodeJS.ProcessEnv,
  secrets: readonly string[],
  problems: string[],
): Record<string, string> {
  const given: Record<string, string> = {};
  // An empty variable is one that was not set: compose files and units pass them so.
  for (const [name, value] of Object.entries(env)) if (value) given[name] = value;
  for (const name of secrets) {
    const path = given[`${name}_FILE`];
    if (path === undefined) continue;
    if (given[name] !== undefined) {
      problems.push(`${name} and ${name}_FILE are both set`);
      continue;
    }
    try {
      given[name] = readFileSync(path, 'utf8').trim();
    } catch {
      problems.push(`${name}_FILE cannot be read`);
    }
  }
  return given;
}
