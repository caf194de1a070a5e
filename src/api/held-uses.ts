import type { KeyUse } from '../db/key-uses.ts';

export type HeldUses = ReturnType<typeof heldUses>;

/** The first and last use of each key, and which of them have moved since they were taken to be saved. */
export function heldUses(restored: readonly KeyUse[]) {
  const uses = new Map(restored.map((use) => [use.keyId, use]));
  const changed = new Set<number>();
  return {
    seen(keyId: number, at: Date): void {
      uses.set(keyId, { keyId, firstUsedAt: uses.get(keyId)?.firstUsedAt ?? at, lastUsedAt: at });
      changed.add(keyId);
    },
    of: (keyId: number): KeyUse | null => uses.get(keyId) ?? null,
    keyIds: (): readonly number[] => [...uses.keys()],
    takeChanged(): readonly KeyUse[] {
      const taken = [...changed].flatMap((keyId) => uses.get(keyId) ?? []);
      changed.clear();
      return taken;
    },
    putBack(unsaved: readonly KeyUse[]): void {
      for (const { keyId } of unsaved) changed.add(keyId);
    },
    forget(keyIds: readonly number[]): void {
      for (const keyId of keyIds) {
        uses.delete(keyId);
        changed.delete(keyId);
      }
    },
  };
}
