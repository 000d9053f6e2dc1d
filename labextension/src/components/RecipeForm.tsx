import { type InputHTMLAttributes, type JSX, type ReactNode, useId } from 'react';

import type { KernelState, Variable } from '../kernel';
import type { Checked, Choice, Form, Service } from '../types';
import { Amounts } from './Amounts';
import { Choices } from './Choices';

export interface RecipeFormProps {
  service: Service;
  kernel: KernelState;
  form: Form;
  problems: Checked['problems'];
  onChange: (values: Partial<Form>) => void;
}

/** The fields of a recipe; what is wrong with one stands below it. */
export function RecipeForm({ service, kernel, form, problems, onChange }: RecipeFormProps): JSX.Element {
  const options = service.form;
  const { models = [], data = [], functions = [] } = kernel.variables ?? {};
  const metrics = useId();
  const own = useId();

  const field = (name: keyof Form, label: string, control: (id: string) => ReactNode): JSX.Element => (
    <Field label={label} problems={problems.filter(problem => problem.field === name)}>
      {control}
    </Field>
  );
  const text = (
    name: 'metric' | 'labels' | 'output' | 'postprocess' | 'store' | 'name' | 'out',
    placeholder: string,
    suggestions?: string
  ) =>
    function Text(id: string): JSX.Element {
      return (
        <input
          id={id}
          value={form[name]}
          placeholder={placeholder}
          list={suggestions}
          onChange={event => onChange({ [name]: event.target.value })}
        />
      );
    };
  const number = (
    name: 'max_drop' | 'batch_dim' | 'ignore_label',
    rest: InputHTMLAttributes<HTMLInputElement>
  ) =>
    function NumberField(id: string): JSX.Element {
      return (
        <input
          id={id}
          type="number"
          {...rest}
          value={form[name] ?? ''}
          onChange={event =>
            onChange({ [name]: event.target.value === '' ? null : Number(event.target.value) })
          }
        />
      );
    };
  const variable = (name: 'model' | 'data' | 'train' | 'calibration', of: Variable[], none: string) =>
    function Variables(id: string): JSX.Element {
      return (
        <Pick
          id={id}
          value={form[name]}
          of={of}
          none={none}
          onChange={value => onChange({ [name]: value })}
        />
      );
    };
  const choice = (name: 'method' | 'recover' | 'minimize' | 'search', of: Choice[]) =>
    function OneOf(id: string): JSX.Element {
      return (
        <OneOfChoices id={id} value={form[name]} of={of} onChange={value => onChange({ [name]: value })} />
      );
    };
  const hasAmounts = options.methods.find(({ name }) => name === form.method)?.has_amounts ?? true;

  return (
    <div className="qt-form">
      {field('model', 'Model', variable('model', models, 'choose…'))}
      {field('data', 'Data', variable('data', data, 'choose…'))}
      {field('train', 'Train', variable('train', data, 'none'))}
      {field('search', 'Search', choice('search', options.searches))}
      {form.search === 'grid' && (
        <>
          {field('method', 'Prune', choice('method', options.methods))}
          {field('amounts', '', () =>
            hasAmounts ? (
              <Amounts amounts={form.amounts} onChange={amounts => onChange({ amounts })} />
            ) : (
              <span className="qt-dim">none, and half of the weights</span>
            )
          )}
          {field('quantize', 'Quantize', () => (
            <Choices
              legend="Quantize"
              choices={options.quantizations.filter(
                ({ name, runtimes }) =>
                  form.quantize.includes(name) || runtimes.some(runtime => form.runtime.includes(runtime))
              )}
              chosen={form.quantize}
              onChange={quantize => onChange({ quantize })}
            />
          ))}
        </>
      )}
      {field(
        'max_drop',
        'Lose at most',
        number('max_drop', {
          min: 0,
          step: 'any',
          title: "In the metric's own unit: 0.01 of accuracy is 1 point"
        })
      )}
      {field('minimize', 'Minimize', choice('minimize', options.minimize))}
      {field('cluster', 'On', id => (
        <Pick
          id={id}
          value={form.cluster}
          of={service.clusters.map(({ name, title }) => ({ name, words: '', title }))}
          onChange={cluster => onChange({ cluster })}
        />
      ))}
      <details className="qt-fold">
        <summary>More</summary>
        {field('runtime', 'Runtime', () => (
          <Choices
            legend="Runtime"
            choices={options.runtimes}
            chosen={form.runtime}
            onChange={runtime => onChange({ runtime })}
          />
        ))}
        {field('recover', 'Recover', choice('recover', options.recoveries))}
        {field('calibration', 'Calibration', variable('calibration', data, 'a part of train or data'))}
        {field('metric', 'Metric', text('metric', 'by the targets', metrics))}
        <Suggestions id={metrics} of={[...functions, ...options.metrics]} />
        {field('task', 'Task', id => (
          <Pick
            id={id}
            value={form.task}
            of={options.tasks.map(({ name, help }) => ({ name, words: help }))}
            none="found out"
            onChange={task => onChange({ task })}
          />
        ))}
        {field('labels', 'Labels', text('labels', 'found out; keys or positions in a batch'))}
        {field('output', 'Output', text('output', 'found out; its name or position'))}
        {field(
          'postprocess',
          'Postprocess',
          text('postprocess', 'none; a function: outputs to what the metric takes', own)
        )}
        <Suggestions id={own} of={functions} />
        {field(
          'batch_dim',
          'Batch dimension',
          number('batch_dim', {
            min: 0,
            placeholder: 'found out',
            title: 'Dimension of the samples in the inputs'
          })
        )}
        {field(
          'ignore_label',
          'Ignore label',
          number('ignore_label', { placeholder: 'found out', title: 'The label that counts nowhere' })
        )}
        {field('store', 'Store', text('store', service.stores[0] ?? ''))}
        {field('name', 'Name', text('name', 'the model’s'))}
        {field('out', 'Variable', text('out', 'none'))}
      </details>
    </div>
  );
}

function Suggestions({ id, of }: { id: string; of: readonly string[] }): JSX.Element {
  return (
    <datalist id={id}>
      {of.map(name => (
        <option key={name} value={name} />
      ))}
    </datalist>
  );
}

function Field({
  label,
  problems,
  children
}: {
  label: string;
  problems: Checked['problems'];
  children: (id: string) => ReactNode;
}): JSX.Element {
  const id = useId();
  return (
    <div className={problems.length ? 'qt-field qt-has-problem' : 'qt-field'}>
      <label htmlFor={id}>{label}</label>
      <div className="qt-control">
        {children(id)}
        {problems.map(problem => (
          <p key={problem.text} className="qt-wrong" role="alert">
            {problem.text}
          </p>
        ))}
      </div>
    </div>
  );
}

function Pick({
  id,
  value,
  of,
  none,
  onChange
}: {
  id: string;
  value: string;
  of: readonly (Variable & { title?: string })[];
  none?: string;
  onChange: (value: string) => void;
}): JSX.Element {
  const isGone = value !== '' && !of.some(variable => variable.name === value);
  return (
    <select id={id} value={value} onChange={event => onChange(event.target.value)}>
      {none !== undefined && <option value="">{none}</option>}
      {isGone && <option value={value}>{value} (not there now)</option>}
      {of.map(({ name, words, title }) => (
        <option key={name} value={name}>
          {title ?? (words ? `${name} · ${words}` : name)}
        </option>
      ))}
    </select>
  );
}

function OneOfChoices({
  id,
  value,
  of,
  onChange
}: {
  id: string;
  value: string;
  of: readonly Choice[];
  onChange: (value: string) => void;
}): JSX.Element {
  const help = of.find(choice => choice.name === value)?.help ?? '';
  return (
    <select id={id} value={value} title={help} onChange={event => onChange(event.target.value)}>
      {of.map(choice => (
        <option key={choice.name} value={choice.name} title={choice.help}>
          {choice.name}
        </option>
      ))}
    </select>
  );
}
