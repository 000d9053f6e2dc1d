import { type JSX, useState } from 'react';

import type { StudyActions } from '../actions';
import { ApiError, type AxisChoice } from '../api';
import type { Known } from '../live';
import type { StudyPage } from '../types';
import { Chart } from './Chart';
import { Legend } from './Legend';
import { Log } from './Log';
import { Notices } from './Notices';
import { Problem } from './Problem';
import { ProgressBar } from './ProgressBar';
import { StudyButtons } from './Studies';
import { TrialCard } from './TrialCard';
import { Trials } from './Trials';

export interface StudyViewProps {
  known: Known<StudyPage>;
  choice: AxisChoice;
  onChoose: (choice: AxisChoice) => void;
  actions: StudyActions;
  fileUrl: (trial: string) => string;
  refresh: () => void;
}

/** A study in the main area: chart, table of trials, log, and what may be done. */
export function StudyView(props: StudyViewProps): JSX.Element {
  const { value: page, error } = props.known;
  if (error instanceof ApiError && error.status === 404) {
    return (
      <div className="qt-page">
        <p className="qt-notice qt-warn" role="alert">
          This study is not there any more: it was deleted, or its store is no longer configured.
        </p>
      </div>
    );
  }
  if (!page) {
    return (
      <div className="qt-page">
        {error ? (
          <Problem error={error} retry={props.refresh} />
        ) : (
          <p className="qt-dim">Reading the study…</p>
        )}
      </div>
    );
  }
  return <Page {...props} page={page} error={error} />;
}

function Page({
  page,
  error,
  choice,
  onChoose,
  actions,
  fileUrl,
  refresh
}: StudyViewProps & { page: StudyPage; error: Error | null }): JSX.Element {
  const [selected, setSelected] = useState('');
  const trial = page.trials.find(row => row.name === selected);
  return (
    // Escape closes the card from wherever the focus is.
    // eslint-disable-next-line jsx-a11y/no-static-element-interactions
    <div className="qt-page" onKeyDown={event => event.key === 'Escape' && setSelected('')}>
      <header className="qt-line qt-apart">
        <span>
          <b className="qt-name">{page.name || page.id}</b> <span className="qt-dim">{page.heading}</span>
          {page.understanding && <div className="qt-understood qt-dim">{page.understanding}</div>}
        </span>
        <StudyButtons line={page} can={page.can} actions={actions} />
      </header>
      {error && <Problem error={error} retry={refresh} />}
      <Notices notices={page.notices} />
      <div className="qt-line qt-apart">
        <ProgressBar progress={page.progress} />
        <AxisButtons choice={choice} onChoose={onChoose} />
      </div>
      <div className="qt-body">
        <div className="qt-main-part">
          <Chart scene={page.chart} selected={selected} onSelect={setSelected} />
          <Legend keys={page.chart.legend} />
        </div>
        {trial && (
          <TrialCard
            trial={trial}
            fileUrl={fileUrl(trial.name)}
            onLoad={() => actions.load(page, trial.name)}
            onClose={() => setSelected('')}
          />
        )}
      </div>
      <Trials columns={page.columns} trials={page.trials} selected={selected} onSelect={setSelected} />
      {page.notes.map(note => (
        <p key={note} className="qt-dim">
          {note}
        </p>
      ))}
      <Log lines={page.log} />
    </div>
  );
}

function AxisButtons({
  choice,
  onChoose
}: {
  choice: AxisChoice;
  onChoose: (choice: AxisChoice) => void;
}): JSX.Element {
  return (
    <span className="qt-actions">
      <label>
        x:{' '}
        <select
          value={choice.axis}
          onChange={event => onChoose({ ...choice, axis: event.target.value as AxisChoice['axis'] })}
        >
          <option value="size">size</option>
          <option value="latency">latency</option>
        </select>
      </label>
      <label>
        <input
          type="checkbox"
          checked={choice.log}
          onChange={event => onChoose({ ...choice, log: event.target.checked })}
        />{' '}
        log
      </label>
    </span>
  );
}
