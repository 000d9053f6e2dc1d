import type { JSX } from 'react';

import type { LogLine } from '../types';

/** The log of a study, the newest line first. */
export function Log({ lines }: { lines: readonly LogLine[] }): JSX.Element {
  return (
    <details className="qt-fold qt-log">
      <summary>Log</summary>
      <ol>
        {[...lines].reverse().map((line, index) => (
          <li key={lines.length - index} className={`qt-log-${line.level}`}>
            <time>{line.clock}</time> {line.text}
          </li>
        ))}
      </ol>
    </details>
  );
}
