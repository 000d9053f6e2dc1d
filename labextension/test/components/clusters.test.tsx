import { render, screen } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { describe, expect, it, vi } from 'vitest';

import { Clusters } from '../../src/components/Clusters';
import type { ClusterLine } from '../../src/types';
import { cluster } from '../samples';

function shown(clusters: ClusterLine[], connect = vi.fn(() => Promise.resolve())) {
  const actions = { start: vi.fn(), stop: vi.fn(), connect, insertTemplate: vi.fn() };
  const value = { clusters, templates: [{ name: 'gce', help: 'Compute Engine' }] };
  render(<Clusters known={{ value, error: null, seen: 1 }} actions={actions} refresh={vi.fn()} />);
  return actions;
}

describe('Clusters', () => {
  it('say what they have, and what is wrong', async () => {
    const acts = shown([
      cluster({ can_start: true }),
      cluster({
        name: 'l4',
        title: 'l4',
        state: 'unreachable',
        words: 'out of reach',
        trouble: 'wrong token',
        can_stop: true
      })
    ]);
    expect(screen.getByText('wrong token')).toBeTruthy();
    await userEvent.click(screen.getByRole('button', { name: 'Start' }));
    await userEvent.click(screen.getByRole('button', { name: 'stop l4' }));
    expect(acts.start).toHaveBeenCalled();
    expect(acts.stop).toHaveBeenCalledWith('l4');
  });

  it('are connected by a form that shows why not', async () => {
    const connect = vi.fn(() => Promise.reject(new Error('no Ray at that address')));
    shown([cluster()], connect);
    await userEvent.type(screen.getByLabelText('Name'), 'l4');
    await userEvent.type(screen.getByLabelText('Address'), 'http://head:8265');
    await userEvent.click(screen.getByRole('button', { name: 'Connect' }));
    expect(connect).toHaveBeenCalledWith({
      name: 'l4',
      address: 'http://head:8265',
      token_file: '',
      store: ''
    });
    expect(await screen.findByText('no Ray at that address')).toBeTruthy();
  });

  it('come with templates', async () => {
    const acts = shown([cluster()]);
    await userEvent.selectOptions(screen.getByLabelText(/Template/), 'gce');
    await userEvent.click(screen.getByRole('button', { name: 'Insert cell' }));
    expect(acts.insertTemplate).toHaveBeenCalledWith('gce');
  });
});
