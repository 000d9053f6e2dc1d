import { type JSX, useEffect, useState } from 'react';

import type { Checked, Form, Planned, Service } from '../types';
import type { KernelState } from '../kernel';
import { useSettled } from '../hooks';
import { Problem } from './Problem';
import { RecipeForm } from './RecipeForm';

const SETTLE_MILLISECONDS = 250;
const AGAIN_MILLISECONDS = 5000;
// Somebody who clicks twice wants one study.
const PAUSE_MILLISECONDS = 2000;

export interface CompressProps {
  service: Service | null;
  error: Error | null;
  kernel: KernelState;
  form: Form | null;
  onChange: (values: Partial<Form>) => void;
  check: (form: Form) => Promise<Checked>;
  plan: (form: Form) => Promise<Planned>;
  insert: (cell: string, run: boolean) => void;
  retry: () => void;
  reset: () => void;
}

/** From a model in the notebook to a cell that compresses it. */
export function Compress(props: CompressProps): JSX.Element {
  const { service, error, kernel, form } = props;
  if (error) {
    return (
      <div className="qt-section">
        <Problem error={error} retry={props.retry} />
      </div>
    );
  }
  const obstacle = obstacleOf(kernel);
  if (obstacle || !kernel.variables) {
    return <div className="qt-section qt-dim">{obstacle || 'Asking the kernel…'}</div>;
  }
  if (kernel.variables.models.length === 0) {
    return (
      <div className="qt-section qt-dim">
        {busy(kernel)}
        <p>No model in this kernel yet. Train or load one, it appears here.</p>
      </div>
    );
  }
  if (!service || !form) {
    return <div className="qt-section qt-dim">Asking the server…</div>;
  }
  return <Filled {...props} service={service} form={form} />;
}

function Filled(props: CompressProps & { service: Service; form: Form }): JSX.Element {
  const { service, kernel, form } = props;
  const { checked, planned, error } = useAnswers(form, props.check, props.plan);
  const missing = missingNames(form, kernel);
  const problems = [...(checked?.problems ?? []), ...missing];
  const isReady = checked?.ok === true && checked.cell !== '' && missing.length === 0;
  const [isPausing, setPausing] = useState(false);
  const write = (run: boolean): void => {
    if (checked) {
      setPausing(true);
      setTimeout(() => setPausing(false), PAUSE_MILLISECONDS);
      props.insert(checked.cell, run);
    }
  };
  return (
    <form className="qt-section" onSubmit={event => event.preventDefault()}>
      {busy(kernel)}
      <RecipeForm
        service={service}
        kernel={kernel}
        form={form}
        problems={problems}
        onChange={props.onChange}
      />
      {isReady &&
        planned?.notes.map(note => (
          <p key={note} className="qt-dim">
            {note}
          </p>
        ))}
      {error && <Problem error={error} />}
      <div className="qt-line qt-foot">
        <b role="status">{planned && isReady ? planned.words : ''}</b>
        {problems.length > 0 && (
          <span className="qt-wrong">
            {problems.length === 1 ? 'One field is wrong.' : `${problems.length} fields are wrong.`}
          </span>
        )}
        <button
          type="button"
          className="qt-button"
          disabled={!isReady || isPausing}
          title="Write the cell below the active one"
          onClick={() => write(false)}
        >
          Insert cell
        </button>
        <button
          type="button"
          className="qt-button qt-main"
          disabled={!isReady || isPausing}
          title="Write the cell and run it"
          onClick={() => write(true)}
        >
          Run
        </button>
        <button type="button" className="qt-link qt-dim" onClick={props.reset}>
          Reset
        </button>
      </div>
    </form>
  );
}

interface Answers {
  checked: Checked | null;
  planned: Planned | null;
  error: Error | null;
}

/** What the server says of the form as it stands; an answer to an older form is never shown. */
function useAnswers(form: Form, check: CompressProps['check'], plan: CompressProps['plan']): Answers {
  const settled = useSettled(form, SETTLE_MILLISECONDS);
  const [found, setFound] = useState<Answers & { of: Form | null }>({
    of: null,
    checked: null,
    planned: null,
    error: null
  });
  useEffect(() => {
    let isCurrent = true;
    let again: ReturnType<typeof setTimeout> | undefined;
    const ask = async (): Promise<void> => {
      try {
        const checked = await check(settled);
        const planned = checked.ok ? await plan(settled) : null;
        if (isCurrent) {
          setFound({ of: settled, checked, planned, error: null });
        }
      } catch (error) {
        if (isCurrent) {
          setFound({ of: settled, checked: null, planned: null, error: error as Error });
          again = setTimeout(() => void ask(), AGAIN_MILLISECONDS);
        }
      }
    };
    void ask();
    return () => {
      isCurrent = false;
      clearTimeout(again);
    };
  }, [settled, check, plan]);
  return found.of === form ? found : { checked: null, planned: null, error: null };
}

/** Variables that the form names and the kernel lacks. */
function missingNames(form: Form, { variables }: KernelState): Checked['problems'] {
  const { models = [], data = [] } = variables ?? {};
  const names = new Set([...models, ...data].map(({ name }) => name));
  const fields = ['model', 'data', 'train', 'calibration'] as const;
  return fields
    .filter(field => form[field] !== '' && !names.has(form[field]))
    .map(field => ({ field, text: `there is no ${form[field]} in this kernel now` }));
}

function busy(kernel: KernelState): JSX.Element | null {
  if (!kernel.isBusy) {
    return null;
  }
  const clock = new Date(kernel.seen).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  return (
    <p className="qt-notice qt-calm">{kernel.seen ? `Kernel busy, list from ${clock}.` : 'Kernel busy.'}</p>
  );
}

function obstacleOf(kernel: KernelState): JSX.Element | string {
  switch (kernel.obstacle) {
    case 'no-notebook':
      return 'Open a notebook: its models appear here.';
    case 'no-kernel':
      return kernel.isBusy
        ? 'Kernel busy: its models appear when it is done.'
        : 'Waiting for the kernel of this notebook…';
    case 'not-python':
      return 'The kernel of this notebook is not Python.';
    case 'no-package':
      return (
        <>
          This kernel lacks quanttaas-jupyter. Run <code>%pip install quanttaas-jupyter</code> in the
          notebook.
        </>
      );
    case 'none':
      return '';
  }
}
