import type { JSX } from 'react';

import type { StudyActions } from '../actions';
import type { Known } from '../live';
import type { Actions, StudyLine, StudyList } from '../types';
import { MiniFrontier } from './MiniFrontier';
import { Problem } from './Problem';

export interface StudiesProps {
  known: Known<StudyList>;
  actions: StudyActions;
  refresh: () => void;
}

/** All studies of the configured stores, newest first. */
export function Studies({ known, actions, refresh }: StudiesProps): JSX.Element {
  const { value, error } = known;
  return (
    <div className="qt-section">
      {error && <Problem error={error} retry={refresh} />}
      {!value && !error && <p className="qt-dim">Looking for studies…</p>}
      {value?.silent.map(sentence => (
        <p key={sentence} className="qt-notice qt-warn">
          {sentence}
        </p>
      ))}
      {value?.studies.length === 0 && (
        <p className="qt-dim">No study yet. Compress your first model above.</p>
      )}
      {value && value.studies.length > 0 && (
        <ul className="qt-studies" aria-label="studies">
          {value.studies.map(line => (
            <StudyItem key={`${line.store} ${line.id}`} line={line} actions={actions} />
          ))}
        </ul>
      )}
    </div>
  );
}

function StudyItem({ line, actions }: { line: StudyLine; actions: StudyActions }): JSX.Element {
  return (
    <li className={`qt-study qt-is-${line.status}`}>
      <button
        type="button"
        className="qt-study-open"
        onClick={() => actions.open(line)}
        aria-label={`open study ${line.name || line.id}, ${line.status}`}
        title={`${line.id} in ${line.store}`}
      >
        <span className="qt-study-head">
          <b>{line.name || line.id}</b>
          {line.model !== line.name && <span className="qt-dim">{line.model}</span>}
          <MiniFrontier points={line.frontier} />
        </span>
        <span className="qt-study-words">
          <span className="qt-state">{line.words}</span>
          <span className="qt-best">{line.best}</span>
        </span>
        {line.status === 'running' && (
          <span className="qt-bar" aria-hidden="true">
            <i className="done" style={{ width: `${100 * line.progress}%` }} />
          </span>
        )}
      </button>
      <StudyButtons line={line} can={line.can} actions={actions} />
    </li>
  );
}

/** What may be done to a study, as buttons. */
export function StudyButtons({
  line,
  can,
  actions
}: {
  line: { id: string; store: string; name: string };
  can: Actions;
  actions: StudyActions;
}): JSX.Element {
  const name = line.name || line.id;
  return (
    <span className="qt-actions">
      {can.cancel && (
        <button
          type="button"
          className="qt-button"
          aria-label={`cancel ${name}`}
          onClick={() => actions.cancel(line)}
        >
          Cancel
        </button>
      )}
      {can.resume && (
        <button
          type="button"
          className="qt-button"
          aria-label={`resume ${name}`}
          onClick={() => actions.resume(line)}
        >
          Resume
        </button>
      )}
      <button
        type="button"
        className="qt-button"
        aria-label={`attach ${name} to the notebook`}
        title="Insert a cell that shows this study"
        onClick={() => actions.attach(line)}
      >
        Attach
      </button>
      {can.delete && (
        <button
          type="button"
          className="qt-button"
          aria-label={`delete ${name}`}
          onClick={() => actions.remove(line)}
        >
          Delete
        </button>
      )}
    </span>
  );
}
