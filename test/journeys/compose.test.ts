import { execFileSync } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { loadConfig } from '../../src/config.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const DOCKER = join(ROOT, 'deploy/docker');
const SECRETS = './deploy/docker/secrets/';

type Service = Readonly<{
  image?: string;
  build?: string | Readonly<{ context: string; dockerfile: string }>;
  profiles?: readonly string[];
  environment?: Readonly<Record<string, string>>;
  secrets?: readonly string[];
  volumes?: readonly string[];
  depends_on?: Readonly<Record<string, object>>;
  ports?: readonly string[];
  healthcheck?: Readonly<{ test: readonly string[] }>;
  entrypoint?: readonly string[];
}>;
type Compose = Readonly<{
  services: Readonly<Record<string, Service>>;
  volumes: Readonly<Record<string, null>>;
  secrets: Readonly<Record<string, Readonly<{ file: string }>>>;
  networks: any;
}>;

const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');
const compose: Compose = parse(read('docker-compose.yml'));
const override: Pick<Compose, 'services'> = parse(read('deploy/docker/postfix.yml'));

/** One service over another, as the engine lays them. */
const over = (base: Service = {}, more: Service = {}): Service => ({
  ...base,
  ...more,
  environment: { ...base.environment, ...more.environment },
  secrets: [...(base.secrets ?? []), ...(more.secrets ?? [])],
  volumes: [...(base.volumes ?? []), ...(more.volumes ?? [])],
  depends_on: { ...base.depends_on, ...more.depends_on },
});

const withPostfix = Object.fromEntries(
  Object.entries(compose.services).map(([name, service]) => [
    name,
    over(service, override.services[name]),
  ]),
);
const services = Object.entries(withPostfix);
const gateways = [
  ['alone', over(compose.services['gateway'])],
  ['with postfix.yml', over(withPostfix['gateway'])],
] as const;
const dockerfiles = ['Dockerfile', 'deploy/docker/mail/Dockerfile'];
const scripts = ['make-secrets.sh', 'mail/entrypoint.sh', 'mail/healthy.sh'];

/** An instruction's lines, those that go on in the next made one. */
const instructions = (path: string, name: string): string[] =>
  read(path)
    .replaceAll('\\\n', ' ')
    .split('\n')
    .filter((line) => line.startsWith(`${name} `))
    .map((line) => line.slice(name.length + 1).trim());

const mountsOf = ({ volumes = [] }: Service) =>
  volumes.map((text) => {
    const [source = '', target = ''] = text.split(':');
    return { source, target };
  });

describe('the containers', () => {
  let dir: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'mailguard-compose-'));
    execFileSync(join(DOCKER, 'make-secrets.sh'), [dir]);
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  it.each(gateways)('give the gateway settings that it takes: %s', (_, { environment }) => {
    const given = Object.entries(environment ?? {}).map(([name, value]) => [
      name,
      value.replace(/^\/run\/secrets/, dir),
    ]);
    const config = loadConfig(Object.fromEntries(given));
    expect(config.databaseUrl).toMatch(/^postgres:\/\/mailguard:[0-9a-f]{48}@database:5432\//);
    const { gateway } = compose.networks.default.ipam.config[0];
    expect(config.trustedProxies).toEqual([gateway]);
  });

  it('set nothing in an image that is not a setting', () => {
    const variables = dockerfiles
      .flatMap((path) => instructions(path, 'ENV'))
      .flatMap((text) => text.split(/\s+/))
      .map((text) => text.split('=') as [string, string]);
    expect(variables.map(([name]) => name)).toContain('MAILGUARD_DATA_DIR');
    expect(() => loadConfig(Object.fromEntries(variables))).not.toThrow();
  });

  it('keep the quarantine in the hold queue with postfix.yml, and in the spool without', () => {
    const stores = gateways.map(
      ([, { environment }]) => environment?.['MAILGUARD_QUARANTINE_STORE'],
    );
    expect(stores).toEqual([undefined, 'postfix']);
  });

  it('find the socket and the log in a volume that gateway and mail share', () => {
    const { environment = {} } = withPostfix['gateway'] ?? {};
    const socket = environment['MAILGUARD_POSTFIX_SOCKET'] ?? '';
    const log = environment['MAILGUARD_POSTFIX_LOG'] ?? '';
    const sharedAt = (path: string) =>
      ['gateway', 'mail'].map(
        (name) =>
          mountsOf(withPostfix[name] ?? {}).find(({ target }) => target === dirname(path))?.source,
      );
    expect([sharedAt(socket), sharedAt(log)]).toEqual([
      ['helper', 'helper'],
      ['mail-log', 'mail-log'],
    ]);
    const entrypoint = read('deploy/docker/mail/entrypoint.sh');
    expect(entrypoint).toContain(`UNIX-LISTEN:${socket},`);
    expect(entrypoint).toContain(`LOG=${log}\n`);
    // As many at once as systemd lets.
    const atOnce = /^MaxConnections=(\d+)$/m.exec(
      read('deploy/systemd/mailguard-postfix.socket'),
    )?.[1];
    expect(entrypoint).toContain(`max-children=${atOnce},`);
    expect(read('deploy/docker/mail/healthy.sh')).toContain(`UNIX-CONNECT:${socket} `);
    expect(read('deploy/docker/mail/Dockerfile')).toContain(`'maillog_file = ${log}'`);
  });

  it.each(services)('%s depends on services that there are', (_, service) => {
    expect(Object.keys(compose.services)).toEqual(
      expect.arrayContaining(Object.keys(service.depends_on ?? {})),
    );
  });

  it('need a profile for what is only there to be tried', () => {
    const named = Object.entries(compose.services).filter(([, { profiles }]) => profiles);
    expect(Object.fromEntries(named.map(([name, { profiles }]) => [name, profiles]))).toEqual({
      eventstore: ['eventstore'],
      mail: ['postfix'],
      sink: ['postfix', 'sink'],
    });
  });

  it('depend on nothing that their own profile leaves out', () => {
    for (const profile of ['', 'eventstore', 'postfix', 'sink']) {
      const laid = profile === 'postfix' ? withPostfix : compose.services;
      const runs = Object.entries(laid).filter(
        ([, { profiles }]) => profiles === undefined || profiles.includes(profile),
      );
      const lost = runs.flatMap(([, { depends_on = {} }]) =>
        Object.keys(depends_on).filter((name) => !runs.some(([other]) => other === name)),
      );
      expect({ profile, lost }).toEqual({ profile, lost: [] });
    }
  });

  it('keep the event store, which has no accounts, to their own network and from the gateway', () => {
    const { eventstore = {} } = compose.services;
    const environment = eventstore.environment ?? {};
    expect(environment['KURRENTDB_INSECURE']).toBe('true');
    expect(eventstore.ports).toBeUndefined();
    const url = new URL(eventstore.healthcheck?.test.at(-1) ?? '');
    expect([url.port, url.pathname]).toEqual([environment['KURRENTDB_NODE_PORT'], '/health/live']);
    for (const [, { environment: given = {} }] of gateways) {
      expect(Object.keys(given).filter((name) => name.includes('EVENTLOG'))).toEqual([]);
    }
    const asked = { MAILGUARD_EVENTLOG_URL: `esdb://eventstore:${url.port}?tls=false` };
    expect(() => loadConfig(asked)).toThrow('esdb:// comes later');
  });

  it('send what is released to the sink by the name and port that it listens on', () => {
    const { mail = {}, sink = {} } = compose.services;
    const port = sink.entrypoint?.find((text) => /^0\.0\.0\.0:\d+$/.test(text))?.split(':')[1];
    expect(mail.environment?.['MAIL_NEXT_HOP']).toBe(`[sink]:${port}`);
    expect(read('README.md')).toContain(`"backend_servers":["sink:${port}"]`);
  });

  it('are of images with a version', () => {
    const images = services.map(([, { image = '' }]) => image);
    const bases = dockerfiles.flatMap((path) => instructions(path, 'FROM'));
    for (const image of [...images, ...bases.map((text) => text.split(' ')[0] ?? '')]) {
      expect(image).toMatch(/^[a-z./-]+:\d[\w.-]*$/);
    }
  });

  it('are told secrets by file alone', () => {
    for (const [name, { environment = {}, secrets = [] }] of services) {
      const secret = Object.entries(environment).filter(([key]) =>
        /PASSWORD|SECRET|_KEY|DATABASE_URL|EVENTLOG_URL/.test(key),
      );
      const files = secret.map(([key, value]) => [key.endsWith('_FILE'), dirname(value)]);
      expect({ name, files }).toEqual({ name, files: secret.map(() => [true, '/run/secrets']) });
      const wanted = secret.map(([, value]) => value.slice('/run/secrets/'.length));
      expect(secrets).toEqual(expect.arrayContaining(wanted));
      expect(Object.keys(compose.secrets)).toEqual(expect.arrayContaining([...secrets]));
      expect(JSON.stringify(environment)).not.toMatch(/:\/\/[^/"]*:[^/"]*@/);
    }
  });

  it('have all their secrets made, which nothing else takes along', () => {
    const files = Object.values(compose.secrets).map(({ file }) => file);
    expect(files.toSorted()).toEqual(readdirSync(dir).map((name) => SECRETS + name));
    expect(read(`${SECRETS}.gitignore`)).toBe('*\n!.gitignore\n');
    expect(ignored('deploy/docker/secrets/database_url')).toBe(true);
  });

  it('have each secret made once', () => {
    const before = readFileSync(join(dir, 'database_url'), 'utf8');
    execFileSync(join(DOCKER, 'make-secrets.sh'), [dir]);
    expect(readFileSync(join(dir, 'database_url'), 'utf8')).toBe(before);
    expect(before).toContain(readFileSync(join(dir, 'database_password'), 'utf8').trim());
  });

  it('mount what there is', () => {
    for (const { source } of services.flatMap(([, service]) => mountsOf(service))) {
      const isThere = /^[./]/.test(source)
        ? existsSync(join(ROOT, source))
        : source in compose.volumes;
      expect({ source, isThere }).toEqual({ source, isThere: true });
    }
  });

  it('are built of what there is', () => {
    for (const [, { build }] of services) {
      const path = typeof build === 'object' ? build.dockerfile : 'Dockerfile';
      if (build !== undefined) expect(dockerfiles).toContain(path);
    }
    for (const path of dockerfiles) {
      const copied = instructions(path, 'COPY')
        .filter((text) => !text.startsWith('--from='))
        .flatMap((text) => text.split(/\s+/).slice(0, -1));
      expect(copied).not.toEqual([]);
      const lost = copied.filter((name) => !existsSync(join(ROOT, name)) || ignored(name));
      expect({ path, lost }).toEqual({ path, lost: [] });
    }
  });

  it.each(scripts)('%s is read by sh without an error, and may be run', (name) => {
    const path = join(DOCKER, name);
    execFileSync('sh', ['-n', path]);
    accessSync(path, constants.X_OK);
  });
});

/** Whether .dockerignore keeps a path from the engine: the last line that matches it decides. */
function ignored(path: string): boolean {
  const lines = read('.dockerignore')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  const matches = (name: string) => name === '*' || path === name || path.startsWith(`${name}/`);
  const last = lines.findLast((line) => matches(line.replace(/^!/, '')));
  return last !== undefined && !last.startsWith('!');
}
