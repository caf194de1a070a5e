/** Rows of one table that only those that serve have, and that only the copy has. */
export type Difference = Readonly<{ table: string; onlyOld: number; onlyNew: number }>;

/** Why a rebuild or a rollback was not done. What serves is as it was; the copy is kept. */
export class RebuildRefused extends Error {
  readonly differences: readonly Difference[];

  constructor(message: string, differences: readonly Difference[] = []) {
    super(message);
    this.name = 'RebuildRefused';
    this.differences = differences;
  }
}
