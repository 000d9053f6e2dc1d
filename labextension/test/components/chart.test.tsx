import { fireEvent, render, screen } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { useState } from 'react';
import { describe, expect, it } from 'vitest';

import { Chart } from '../../src/components/Chart';
import { chart, point } from '../samples';

function Selecting({ names }: { names: [string, number][] }): React.JSX.Element {
  const [selected, setSelected] = useState('');
  const points = names.map(([name, x]) => point(name, x, 95));
  return (
    <>
      <Chart scene={chart(points)} selected={selected} onSelect={setSelected} />
      <output>{selected}</output>
    </>
  );
}

const selected = () => screen.getByRole('status').textContent;

describe('Chart', () => {
  it('says every trial to a screen reader', () => {
    render(<Selecting names={[['int8', 5]]} />);
    expect(screen.getByRole('button', { name: 'int8, accuracy 95 %' })).toBeTruthy();
  });

  it('selects by click, and again for none', async () => {
    render(<Selecting names={[['int8', 5]]} />);
    const mark = screen.getByRole('button');
    await userEvent.click(mark);
    expect(selected()).toBe('int8');
    expect(mark.getAttribute('aria-pressed')).toBe('true');
    await userEvent.click(mark);
    expect(selected()).toBe('');
  });

  it('is one stop for Tab, and arrows go along its axis', async () => {
    render(
      <Selecting
        names={[
          ['baseline', 6],
          ['prune50-int8', 4.5],
          ['int8', 5]
        ]}
      />
    );
    await userEvent.tab();
    await userEvent.keyboard('{Enter}');
    expect(selected()).toBe('prune50-int8');
    await userEvent.keyboard('{ArrowRight}');
    expect(selected()).toBe('int8');
    await userEvent.keyboard('{ArrowRight}{ArrowRight}');
    expect(selected()).toBe('baseline');
    expect(screen.getAllByRole('button').filter(mark => mark.tabIndex === 0)).toHaveLength(1);
    await userEvent.keyboard('{Escape}');
    expect(selected()).toBe('');
  });

  it('draws better points further up and left', () => {
    render(
      <Selecting
        names={[
          ['small', 4.5],
          ['large', 6]
        ]}
      />
    );
    const [small, large] = screen
      .getAllByRole('button')
      .map(mark => Number(mark.querySelector('circle')?.getAttribute('cx')));
    expect(small).toBeLessThan(large ?? 0);
  });

  it('shows names as text, whatever they hold', () => {
    render(<Selecting names={[['<script>alert(1)</script>', 5]]} />);
    expect(document.querySelector('script')).toBeNull();
    fireEvent.click(screen.getByRole('button'));
    expect(selected()).toBe('<script>alert(1)</script>');
  });

  it('says what to wait for while it is empty', () => {
    render(<Chart scene={chart()} selected="" onSelect={() => undefined} />);
    expect(screen.getByText('Points appear as trials are measured.')).toBeTruthy();
  });
});
