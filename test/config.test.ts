import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { ConfigError } from '../src/config-error.ts';
import { addressPolicy } from '../src/webhooks/addresses.ts';

/** Any file that can be read. */
const HERE = fileURLToPath(import.meta.url);

const problemsOf = (env: NodeJS.ProcessEnv): readonly string[] => {
  try {
    loadConfig(env);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
};

describe('loadConfig', () => {
  it('needs nothing: loopback, port 3443, everything else made here', () => {
    expect(loadConfig({})).toMatchObject({
      host: '127.0.0.1',
      port: 3443,
      tls: null,
      databaseUrl: null,
      masterKey: null,
      webhooks: { allowCidrs: [], allowHttp: false },
      logLevel: 'info',
    });
  });

  it('names every problem at once', () => {
    const problems = problemsOf({
      MAILGUARD_HOST: '0.0.0.0',
      MAILGUARD_PORT: 'x',
      MAILGUARD_TLS_CERT: '/cert.pem',
      MAILGUARD_MASTER_KEY: '0'.repeat(64),
      MAILGUARD_TRUSTED_PROXIES: '10.0.0.0/8, nonsense',
      MAILGUARD_COLOUR: 'blue',
    });
    expect(problems).toHaveLength(5);
    expect(problems.join('\n')).toMatch(
      /COLOUR[\s\S]*PORT[\s\S]*TLS[\s\S]*nonsense[\s\S]*MASTER_KEY/,
    );
  });

  it.each([
    [{ MAILGUARD_HOST: '0.0.0.0' }, /not a loopback/],
    [{ MAILGUARD_HOST: 'mail.example.com' }, /not a loopback/],
    [{ MAILGUARD_TRUSTED_PROXIES: '0.0.0.0/0' }, /trust everybody/],
    [{ MAILGUARD_TRUSTED_PROXIES: '::/0' }, /trust everybody/],
    [{ MAILGUARD_TRUSTED_PROXIES: '128.0.0.0/1' }, /trust everybody/],
    [{ MAILGUARD_TRUSTED_PROXIES: '10.0.0.0/7' }, /trust everybody/],
    [{ MAILGUARD_TRUSTED_PROXIES: '10.0.0.0/07' }, /trust everybody/],
    [{ MAILGUARD_TRUSTED_PROXIES: '2000::/3' }, /trust everybody/],
    [{ MAILGUARD_TRUSTED_PROXIES: '10.0.0.1, fe00::/7' }, /fe00::\/7 would trust everybody/],
    [{ MAILGUARD_MASTER_KEY: 'abc' }, /32 bytes in hex/],
    [{ MAILGUARD_MASTER_KEY: 'ab'.repeat(32) }, /too little variety/],
    [{ MAILGUARD_BOOTSTRAP_KEY: 'nmg_short' }, /64 lower-case hex/],
    [{ MAILGUARD_BOOTSTRAP_KEY: `nmg_${'0'.repeat(64)}` }, /too little variety/],
    [{ MAILGUARD_PORT: '65536' }, /port number/],
    [{ MAILGUARD_PORT: 'x' }, /port number/],
    [{ MAILGUARD_DATABASE_URL: 'mysql://x' }, /postgres:\/\//],
    [{ MAILGUARD_LOG_LEVEL: 'loud' }, /must be one of/],
    [{ MAILGUARD_MASTER_KEY_FILE: '/does/not/exist' }, /cannot be read/],
    [{ MAILGUARD_NODE_ID: 'a b' }, /MAILGUARD_NODE_ID/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: 'nonsense' }, /ALLOW_CIDRS: nonsense is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '10.0.0.0/8, intranet.example' }, /intranet\.example is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '10.0.0.0/33' }, /10\.0\.0\.0\/33 is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '10.0.0.0/8/8' }, /10\.0\.0\.0\/8\/8 is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '10.0.0.0/' }, /10\.0\.0\.0\/ is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: 'fd00::/129' }, /fd00::\/129 is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '10.0.0.0/8 192.168.0.0/16' }, /is not an address or CIDR/],
    // Short forms mean something else to everybody.
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '10' }, /ALLOW_CIDRS: 10 is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '127.1' }, /127\.1 is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '10.0/16' }, /10\.0\/16 is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: 'fe80::1%eth0' }, /fe80::1%eth0 is not/],
    [{ MAILGUARD_WEBHOOK_ALLOW_HTTP: 'yes' }, /ALLOW_HTTP[\s\S]*must be true or false/],
    [{ MAILGUARD_WEBHOOK_ALLOW_HTTP: 'TRUE' }, /must be true or false/],
    [{ MAILGUARD_WEBHOOK_ALLOW_HTTP: '1' }, /must be true or false/],
  ])('refuses %o', (env, problem) => expect(problemsOf(env).join('\n')).toMatch(problem));

  it.each([
    [{ MAILGUARD_HOST: '::1' }],
    [{ MAILGUARD_HOST: 'localhost' }],
    [{ MAILGUARD_HOST: '0.0.0.0', MAILGUARD_TRUSTED_PROXIES: '10.1.2.3' }],
    [{ MAILGUARD_TRUSTED_PROXIES: '10.0.0.0/8, fd00::/8, 192.0.2.0/24, ::1' }],
    [{ MAILGUARD_HOST: '0.0.0.0', MAILGUARD_TLS_CERT: HERE, MAILGUARD_TLS_KEY: HERE }],
    [{ MAILGUARD_PORT: '', MAILGUARD_TLS_CERT: '' }],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '', MAILGUARD_WEBHOOK_ALLOW_HTTP: '' }],
    [{ MAILGUARD_WEBHOOK_ALLOW_CIDRS: '10.0.0.0/8, fd00::/8,192.168.1.1, ::1' }],
    [{ MAILGUARD_WEBHOOK_ALLOW_HTTP: 'false' }],
  ])('accepts %o', (env) => expect(problemsOf(env)).toEqual([]));

  it('reads which targets of webhooks are allowed, each as a range that can be judged by', () => {
    const { webhooks } = loadConfig({
      MAILGUARD_WEBHOOK_ALLOW_CIDRS: '10.0.0.0/8, fd00::/8,192.168.1.1, ::1',
      MAILGUARD_WEBHOOK_ALLOW_HTTP: 'true',
    });
    expect(webhooks).toEqual({
      allowCidrs: ['10.0.0.0/8', 'fd00::/8', '192.168.1.1', '::1'],
      allowHttp: true,
    });
    const policy = addressPolicy(webhooks.allowCidrs);
    for (const address of ['10.1.2.3', 'fd00::1', '192.168.1.1', '::1']) {
      expect([address, policy.denies(address)]).toEqual([address, false]);
    }
    for (const address of ['192.168.1.2', '127.0.0.1', '169.254.169.254']) {
      expect([address, policy.denies(address)]).toEqual([address, true]);
    }
  });

  it('takes a secret from a file, and not from both places', () => {
    const file = join(mkdtempSync(join(tmpdir(), 'config-')), 'master');
    const key = '00112233445566778899aabbccddeeff'.repeat(2);
    writeFileSync(file, `${key}\n`);
    expect(loadConfig({ MAILGUARD_MASTER_KEY_FILE: file }).masterKey?.toString('hex')).toBe(key);
    const both = { MAILGUARD_MASTER_KEY_FILE: file, MAILGUARD_MASTER_KEY: key };
    expect(problemsOf(both).join()).toMatch(/both set/);
  });
});
