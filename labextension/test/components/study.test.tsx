import { render, screen, within } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { describe, expect, it, vi } from 'vitest';

import type { StudyActions } from '../../src/actions';
import { Studies } from '../../src/components/Studies';
import { StudyView } from '../../src/components/StudyView';
import { Trials } from '../../src/components/Trials';
import { MissingServer } from '../../src/api';
import type { StudyPage } from '../../src/types';
import { COLUMNS, page, study, trial } from '../samples';

function actions() {
  const made = {
    open: vi.fn(),
    cancel: vi.fn(),
    resume: vi.fn(),
    attach: vi.fn(),
    load: vi.fn(),
    remove: vi.fn()
  };
  return made satisfies StudyActions;
}

const known = <T,>(value: T | null, error: Error | null = null) => ({ value, error, seen: 1 });
const names = () =>
  screen
    .getAllByRole('rowheader')
    .map(cell => cell.textContent.trim())
    .filter(name => name !== 'size');

describe('Studies', () => {
  it('teach the first step while there is none', () => {
    render(<Studies known={known({ studies: [], silent: [] })} actions={actions()} refresh={vi.fn()} />);
    expect(screen.getByText(/No study yet. Compress your first model above/)).toBeTruthy();
  });

  it('say what they found, and open', async () => {
    const acts = actions();
    const line = study({ name: '<img src=x onerror=alert(1)>' });
    render(
      <Studies
        known={known({ studies: [line], silent: ['gs://b did not answer'] })}
        actions={acts}
        refresh={vi.fn()}
      />
    );
    expect(screen.getByText('2 of 4 trials')).toBeTruthy();
    expect(screen.getByText('3.1x smaller')).toBeTruthy();
    expect(screen.getByText('gs://b did not answer')).toBeTruthy();
    expect(document.querySelector('img')).toBeNull();
    await userEvent.click(screen.getByRole('button', { name: /open study/ }));
    expect(acts.open).toHaveBeenCalledWith(line);
  });

  it('offer what may be done, and nothing else', async () => {
    const acts = actions();
    const lines = [
      study(),
      study({
        id: '8b00',
        name: 'old',
        status: 'cancelled',
        can: { cancel: false, resume: true, delete: true }
      })
    ];
    render(<Studies known={known({ studies: lines, silent: [] })} actions={acts} refresh={vi.fn()} />);
    await userEvent.click(screen.getByRole('button', { name: 'cancel digits' }));
    await userEvent.click(screen.getByRole('button', { name: 'resume old' }));
    await userEvent.click(screen.getByRole('button', { name: 'delete old' }));
    expect(acts.cancel).toHaveBeenCalledWith(lines[0]);
    expect(acts.resume).toHaveBeenCalledWith(lines[1]);
    expect(acts.remove).toHaveBeenCalledWith(lines[1]);
    expect(screen.queryByRole('button', { name: 'delete digits' })).toBeNull();
    expect(screen.queryByRole('button', { name: 'cancel old' })).toBeNull();
  });

  it('keep the last list beside an error, with what to do', async () => {
    const refresh = vi.fn();
    const list = { studies: [study()], silent: [] };
    render(<Studies known={known(list, new MissingServer())} actions={actions()} refresh={refresh} />);
    expect(screen.getByText('pip install quanttaas-jupyter')).toBeTruthy();
    expect(screen.getByText('digits')).toBeTruthy();
    await userEvent.click(screen.getByRole('button', { name: 'Try again' }));
    expect(refresh).toHaveBeenCalled();
  });
});

describe('Trials', () => {
  const rows = [
    trial('baseline', { precision: 'none' }, 1200),
    trial('failed', { status: 'failed' }),
    trial('int8', {}, 300)
  ];

  it('sort by number, the unknown last, and back to the order of the study', async () => {
    render(<Trials columns={COLUMNS} trials={rows} selected="" onSelect={vi.fn()} />);
    const head = screen.getByRole('button', { name: /^size/ });
    await userEvent.click(head);
    expect(names()).toEqual(['int8', 'baseline', 'failed']);
    await userEvent.click(head);
    expect(names()).toEqual(['baseline', 'int8', 'failed']);
    expect(screen.getByRole('columnheader', { name: /size/ }).getAttribute('aria-sort')).toBe('descending');
    await userEvent.click(head);
    expect(names()).toEqual(['baseline', 'failed', 'int8']);
  });

  it('filter by precision', async () => {
    render(<Trials columns={COLUMNS} trials={rows} selected="" onSelect={vi.fn()} />);
    await userEvent.selectOptions(screen.getByLabelText('Precision'), 'none');
    expect(names()).toEqual(['baseline']);
  });
});

describe('StudyView', () => {
  function shown(value: Partial<StudyPage> = {}) {
    const acts = actions();
    const choose = vi.fn();
    render(
      <StudyView
        known={known(page(value))}
        choice={{ axis: 'size', log: true }}
        onChoose={choose}
        actions={acts}
        fileUrl={name => `/files/${name}`}
        refresh={vi.fn()}
      />
    );
    return { acts, choose };
  }

  it('opens the card of a trial from the table: its numbers, its file, its model', async () => {
    const { acts } = shown();
    await userEvent.click(screen.getByRole('button', { name: 'int8' }));
    const card = within(screen.getByRole('region', { name: 'trial int8' }));
    expect(card.getByText('6.9x smaller')).toBeTruthy();
    expect(card.getByRole('link', { name: 'Download' }).getAttribute('href')).toBe('/files/int8');
    await userEvent.click(card.getByRole('button', { name: 'Load into notebook' }));
    expect(acts.load).toHaveBeenCalledWith(expect.objectContaining({ id: '7f3a' }), 'int8');
    await userEvent.click(card.getByRole('button', { name: 'Close the card' }));
    expect(screen.queryByRole('region', { name: 'trial int8' })).toBeNull();
  });

  it('asks for another axis', async () => {
    const { choose } = shown();
    await userEvent.selectOptions(screen.getByLabelText('x:'), 'latency');
    expect(choose).toHaveBeenCalledWith({ axis: 'latency', log: true });
  });

  it('says how far it is, what is wrong, and logs the newest line first', () => {
    shown({ notices: [{ kind: 'bad', text: 'The study failed. No space left.' }] });
    expect(screen.getByRole('progressbar').getAttribute('aria-valuenow')).toBe('50');
    expect(screen.getByText('The study failed. No space left.')).toBeTruthy();
    const [first] = screen.getAllByText(/int8: (quantizing|measuring)/);
    expect(first?.textContent).toContain('measuring');
  });
});
