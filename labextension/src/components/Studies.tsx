import { type JSX, useState } from 'react';

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

const STEP = 30;

/** All studies of the configured stores, newest first. */
export function Studies({ known, actions, refresh }: StudiesProps): JSX.Element {
  const { value, error } = known;
  const [shown, setShown] = useState(STEP);
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
          {value.studies.slice(0, shown).map(line => (
            <StudyItem key={`${line.store} ${line.id}`} line={line} actions={actions} />
          ))}
        </ul>
      )}
      {value && value.studies.length > shown && (
        <button type="button" className="qt-button" onClick={() => setShown(shown + STEP)}>
          {value.studies.length - shown} more
        </button>
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
        aria-label={[`open study ${line.name || line.id}`, line.words, line.best].filter(Boolean).join(', ')}
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
  const buttons = [
    { words: 'Cancel', says: `cancel ${name}`, may: can.cancel, act: actions.cancel },
    { words: 'Resume', says: `resume ${name}`, may: can.resume, act: actions.resume },
    { words: 'Attach', says: `attach ${name} to the notebook`, may: true, act: actions.attach },
    { words: 'Delete', says: `delete ${name}`, may: can.delete, act: actions.remove }
  ];
  return (
    <span className="qt-actions">
      {buttons.map(
        ({ words, says, may, act }) =>
          may && (
            <button
              key={words}
              type="button"
              className="qt-button"
              aria-label={says}
              onClick={() => act(line)}
            >
              {words}
            </button>
          )
      )}
    </span>
  );
}
