import { type JSX, useState } from 'react';

export interface AmountsProps {
  amounts: readonly number[];
  onChange: (amounts: number[]) => void;
}

/** Shares of the parameters to remove, as chips with one field to add another. */
export function Amounts({ amounts, onChange }: AmountsProps): JSX.Element {
  const [text, setText] = useState('');
  const percent = Number(text);
  const isWrong = text !== '' && !(percent >= 0 && percent < 100);

  const add = (): void => {
    if (text !== '' && !isWrong) {
      onChange([...new Set([...amounts, percent / 100])].sort((a, b) => a - b));
      setText('');
    }
  };

  return (
    <span className="qt-chips">
      {amounts.map(amount => (
        <button
          key={amount}
          type="button"
          className="qt-chip"
          aria-label={`leave out ${shown(amount)}`}
          title="Leave out"
          onClick={() => onChange(amounts.filter(other => other !== amount))}
        >
          {shown(amount)} <span aria-hidden="true">×</span>
        </button>
      ))}
      <span className="qt-add">
        <input
          aria-label="percent of the parameters to remove"
          aria-invalid={isWrong}
          inputMode="decimal"
          size={3}
          value={text}
          placeholder="%"
          onChange={event => setText(event.target.value.trim())}
          onKeyDown={event => {
            if (event.key === 'Enter') {
              event.preventDefault();
              add();
            }
          }}
        />
        <button type="button" className="qt-button" disabled={text === '' || isWrong} onClick={add}>
          Add
        </button>
      </span>
      {isWrong && <span className="qt-wrong">a percentage from 0 to below 100</span>}
    </span>
  );
}

function shown(amount: number): string {
  return amount === 0 ? 'none' : `${Number((100 * amount).toPrecision(4))} %`;
}
