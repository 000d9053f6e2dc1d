import { type JSX, useState } from 'react';

import type { ClusterActions } from '../actions';
import type { Known } from '../live';
import type { Choice, ClusterLine, ClusterList } from '../types';
import { Problem } from './Problem';

export interface ClustersProps {
  known: Known<ClusterList>;
  actions: ClusterActions;
  refresh: () => void;
}

/** Where studies can run. */
export function Clusters({ known, actions, refresh }: ClustersProps): JSX.Element {
  const { value, error } = known;
  return (
    <div className="qt-section">
      {error && <Problem error={error} retry={refresh} />}
      {!value && !error && <p className="qt-dim">Asking the clusters…</p>}
      {value && (
        <ul className="qt-clusters" aria-label="clusters">
          {value.clusters.map(line => (
            <ClusterItem key={line.name} line={line} actions={actions} />
          ))}
        </ul>
      )}
      <Connect connect={actions.connect} />
      {value && value.templates.length > 0 && (
        <Templates templates={value.templates} insert={actions.insertTemplate} />
      )}
    </div>
  );
}

function ClusterItem({ line, actions }: { line: ClusterLine; actions: ClusterActions }): JSX.Element {
  return (
    <li className={`qt-cluster qt-is-${line.state}`}>
      <span className="qt-line">
        <b>{line.title}</b>
        <span className="qt-dim">{line.words}</span>
        <span className="qt-actions">
          {line.can_start && (
            <button type="button" className="qt-button" onClick={() => actions.start()}>
              Start
            </button>
          )}
          {line.can_stop && (
            <button
              type="button"
              className="qt-button"
              aria-label={`stop ${line.title}`}
              onClick={() => actions.stop(line.name)}
            >
              Stop
            </button>
          )}
        </span>
      </span>
      {line.trouble && <p className="qt-notice qt-warn">{line.trouble}</p>}
    </li>
  );
}

function Templates({
  templates,
  insert
}: {
  templates: Choice[];
  insert: (kind: string) => void;
}): JSX.Element {
  const [kind, setKind] = useState(templates[0]?.name ?? '');
  return (
    <details className="qt-fold">
      <summary>New on Google Cloud</summary>
      <div className="qt-line">
        <label>
          Template{' '}
          <select value={kind} onChange={event => setKind(event.target.value)}>
            {templates.map(({ name, help }) => (
              <option key={name} value={name} title={help}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <button type="button" className="qt-button" onClick={() => insert(kind)}>
          Insert cell
        </button>
      </div>
      <p className="qt-dim">{templates.find(({ name }) => name === kind)?.help}</p>
    </details>
  );
}

const EMPTY = { name: '', address: '', token_file: '', store: '' };

const LABELS: [keyof typeof EMPTY, string, string][] = [
  ['name', 'Name', 'l4'],
  ['address', 'Address', 'http://127.0.0.1:8265'],
  ['token_file', 'Token file', 'none'],
  ['store', 'Store', 'gs://BUCKET/studies']
];

function Connect({ connect }: { connect: ClusterActions['connect'] }): JSX.Element {
  const [values, setValues] = useState(EMPTY);
  const [problem, setProblem] = useState<Error | null>(null);
  const [isBusy, setBusy] = useState(false);

  const submit = async (event: React.FormEvent): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    try {
      await connect(values);
      setValues(EMPTY);
      setProblem(null);
    } catch (error) {
      setProblem(error as Error);
    } finally {
      setBusy(false);
    }
  };

  return (
    <details className="qt-fold">
      <summary>Connect a Ray cluster</summary>
      <form className="qt-grid" onSubmit={event => void submit(event)}>
        {LABELS.map(([key, label, placeholder]) => (
          <label key={key}>
            <span>{label}</span>
            <input
              value={values[key]}
              placeholder={placeholder}
              required={key === 'name' || key === 'address'}
              onChange={event => setValues({ ...values, [key]: event.target.value })}
            />
          </label>
        ))}
        <div className="qt-line">
          <button type="submit" className="qt-button qt-main" disabled={isBusy}>
            {isBusy ? 'Connecting…' : 'Connect'}
          </button>
        </div>
        {problem && <Problem error={problem} />}
      </form>
    </details>
  );
}
