import { readdirSync, readFileSync } from 'node:fs';

/** Linux counts CPU time in hundredths of a second. */
const TICK_US = 10_000;

/**
 * CPU microseconds used so far by a process and all it has started, by pid; empty where there is no
 * /proc. Of a PostgreSQL server: every backend, the WAL writer, the checkpointer.
 * @returns {Map<number, number>}
 */
export function cpuOfFamily(parent) {
  const found = new Map();
  for (const name of listProcesses()) {
    const stat = readStat(name);
    if (stat !== null && (stat.ppid === parent || stat.pid === parent))
      found.set(stat.pid, stat.cpuUs);
  }
  return found;
}

/** What a family used between two looks: in all, and the busiest of it alone. */
export function cpuBetween(before, after) {
  const used = [...after].map(([pid, us]) => us - (before.get(pid) ?? 0));
  return { all: used.reduce((sum, us) => sum + us, 0), busiest: Math.max(0, ...used) };
}

/** Samples the resident memory of a process every 50 ms; `stop` tells how far it grew. */
export function watchMemory(pid) {
  const start = residentMiB(pid);
  let peak = start;
  const look = () => {
    peak = Math.max(peak, residentMiB(pid));
  };
  const timer = setInterval(look, 50);
  return {
    stop() {
      clearInterval(timer);
      look();
      return { start, peak, growth: peak - start };
    },
  };
}

/** VmRSS in MiB; throws when the process is gone. */
export function residentMiB(pid) {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) / 1_024;
}

/** Pids of a process's direct children. */
export const childrenOf = (parent) =>
  [...cpuOfFamily(parent).keys()].filter((pid) => pid !== parent);

function listProcesses() {
  try {
    return readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  } catch {
    return [];
  }
}

function readStat(name) {
  let text;
  try {
    text = readFileSync(`/proc/${name}/stat`, 'utf8');
  } catch {
    return null;
  }
  // The program's name stands in brackets and may hold anything; what follows is numbers.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return {
    pid: Number(name),
    ppid: Number(fields[1]),
    cpuUs: (Number(fields[11]) + Number(fields[12])) * TICK_US,
  };
}
