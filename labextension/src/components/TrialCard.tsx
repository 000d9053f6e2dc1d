import type { JSX } from 'react';

import type { TrialRow } from '../types';
import { Glyph } from './Glyph';
import { Notices } from './Notices';

export interface TrialCardProps {
  trial: TrialRow;
  fileUrl: string;
  onLoad: () => void;
  onClose: () => void;
}

/** One trial: its numbers with intervals, what was quantized, its file. */
export function TrialCard({ trial, fileUrl, onLoad, onClose }: TrialCardProps): JSX.Element {
  return (
    <section className="qt-card" aria-label={`trial ${trial.name}`}>
      <div className="qt-card-head">
        <span>
          <Glyph marker={trial.marker} color={trial.color} /> <b>{trial.name}</b>
        </span>
        <button type="button" className="qt-link" aria-label="Close the card" onClick={onClose}>
          ×
        </button>
      </div>
      <p className="qt-dim">{trial.words}</p>
      {trial.error && (
        <p className="qt-notice qt-bad" role="alert">
          {trial.error}
        </p>
      )}
      <table>
        <tbody>
          {trial.facts.map(([label, number, extra]) => (
            <tr key={label}>
              <th scope="row">{label}</th>
              <td className="qt-number">{number}</td>
              <td>{extra}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <Notices notices={trial.remarks} />
      {trial.file && (
        <div className="qt-line">
          <a className="qt-button qt-main" href={fileUrl} download={trial.file}>
            Download
          </a>
          <button
            type="button"
            className="qt-button"
            title="Insert a cell that loads this model into the kernel"
            onClick={onLoad}
          >
            Load into notebook
          </button>
        </div>
      )}
    </section>
  );
}
