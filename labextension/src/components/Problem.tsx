import type { JSX } from 'react';

import { MissingServer } from '../api';

/** What went wrong, and what to do. */
export function Problem({ error, retry }: { error: Error; retry?: () => void }): JSX.Element {
  return (
    <div className="qt-notice qt-bad" role="alert">
      <p>{error.message}</p>
      {error instanceof MissingServer && (
        <p>
          Run <code>{error.command}</code> in the environment that runs JupyterLab, then restart it.
        </p>
      )}
      {retry && (
        <button type="button" className="qt-button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}
