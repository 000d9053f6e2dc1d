/** Writing into the notebook: it stays the record of what was done. */

import { type INotebookTracker, NotebookActions } from '@jupyterlab/notebook';

const LOAD = '%load_ext quanttaas_jupyter';

/**
 * Put code below the active cell of the active notebook.
 *
 * @param tracker - Knows the active notebook.
 * @param code - What to put there.
 * @param options - `needsLoading`: a cell that loads the extension comes first; `run`: the cells run at once.
 * @returns Whether there was a notebook to write into.
 */
export async function insert(
  tracker: INotebookTracker,
  code: string,
  options: { needsLoading: boolean; run: boolean }
): Promise<boolean> {
  const panel = tracker.currentWidget;
  if (!panel) {
    return false;
  }
  const { content: notebook, sessionContext } = panel;
  for (const source of options.needsLoading ? [LOAD, code] : [code]) {
    // An empty cell is where a person would type.
    if (notebook.activeCell?.model.sharedModel.source.trim() || notebook.activeCell?.model.type !== 'code') {
      NotebookActions.insertBelow(notebook);
    }
    notebook.activeCell?.model.sharedModel.setSource(source);
    if (options.run) {
      // Not awaited: a cell that waits for a busy kernel must not keep the next one from being written.
      void NotebookActions.run(notebook, sessionContext);
    }
  }
  const cell = notebook.activeCell;
  if (cell) {
    await notebook.scrollToCell(cell);
  }
  return true;
}
