import type { JSX } from 'react';

import type { Progress } from '../types';

/** A bar of trials done, cut, half measured and failed. */
export function ProgressBar({ progress }: { progress: Progress }): JSX.Element {
  return (
    <div className="qt-progress">
      <div
        className="qt-bar"
        role="progressbar"
        aria-label="trials done"
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.round(progress.percent)}
      >
        {progress.parts.map(part => (
          <i key={part.kind} className={part.kind} style={{ width: `${part.percent}%` }} />
        ))}
      </div>
      <span>{progress.words.join(' · ')}</span>
    </div>
  );
}
