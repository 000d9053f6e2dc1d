import type { JSX } from 'react';

import type { Choice } from '../types';

export interface ChoicesProps {
  legend: string;
  choices: readonly Choice[];
  chosen: readonly string[];
  onChange: (chosen: string[]) => void;
}

/** Several of several, in the order in which they are offered. */
export function Choices({ legend, choices, chosen, onChange }: ChoicesProps): JSX.Element {
  const toggle = (name: string): void => {
    const wanted = new Set(chosen);
    if (!wanted.delete(name)) {
      wanted.add(name);
    }
    onChange(choices.map(choice => choice.name).filter(other => wanted.has(other)));
  };
  return (
    <fieldset className="qt-choices">
      <legend className="qt-hidden">{legend}</legend>
      {choices.map(({ name, help }) => (
        <label key={name} title={help}>
          <input type="checkbox" checked={chosen.includes(name)} onChange={() => toggle(name)} /> {name}
        </label>
      ))}
    </fieldset>
  );
}
