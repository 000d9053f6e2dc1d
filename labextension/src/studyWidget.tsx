/** A study in the main area. */

import type { JSX } from 'react';

import { MainAreaWidget, ReactWidget } from '@jupyterlab/apputils';
import type { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';

import type { Actions, StudyName } from './actions';
import type { Api, AxisChoice } from './api';
import { StudyView } from './components/StudyView';
import { useLive, useSignal } from './hooks';
import { icon } from './icon';
import { Live } from './live';
import type { StudyPage } from './types';

class StudyContent extends ReactWidget {
  constructor(
    readonly study: StudyName,
    private readonly api: Api,
    private readonly actions: Actions,
    interval: number
  ) {
    super();
    this.live = new Live<StudyPage>({
      name: `quanttaas:study:${study.id}`,
      interval,
      ask: tag => api.study(study, this.choice, tag),
      isWatched: () => this.isVisible
    });
    this.addClass('qt-scroll');
    this.title.icon = icon;
    this.title.label = shortened(study.name || study.id);
    this.title.caption = `Study ${study.id}`;
  }

  refresh(): void {
    void this.live.refresh();
  }

  override dispose(): void {
    this.live.dispose();
    super.dispose();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.refresh();
  }

  protected override render(): JSX.Element {
    return <Connected content={this} />;
  }

  /** Another axis is another picture: the server draws it. */
  choose(choice: AxisChoice): void {
    this.choice = choice;
    this.chosen.emit(choice);
    void this.live.renew();
  }

  fileUrl(trial: string): string {
    return this.api.artifactUrl(this.study, trial);
  }

  get buttons(): Actions {
    return this.actions;
  }

  readonly live: Live<StudyPage>;
  readonly chosen = new Signal<this, AxisChoice>(this);
  choice: AxisChoice = { axis: 'size', log: true };
}

function Connected({ content }: { content: StudyContent }): JSX.Element {
  const known = useLive(content.live);
  const choice = useSignal(content.chosen, () => content.choice);
  return (
    <StudyView
      known={known}
      choice={choice}
      onChoose={wanted => content.choose(wanted)}
      actions={content.buttons}
      fileUrl={trial => content.fileUrl(trial)}
      refresh={() => content.refresh()}
    />
  );
}

export class StudyWidget extends MainAreaWidget<StudyContent> {
  constructor(study: StudyName, api: Api, actions: Actions, interval: number) {
    super({ content: new StudyContent(study, api, actions, interval) });
    this.id = `quanttaas-study-${study.id}`;
    this.toolbar.hide();
  }

  get study(): StudyName {
    return this.content.study;
  }

  /** Milliseconds between two looks. */
  set interval(milliseconds: number) {
    this.content.live.interval = milliseconds;
  }

  /** Ask the server now. */
  refreshStudy(): void {
    this.content.refresh();
  }
}

/** A name for a tab and the status bar. */
function shortened(name: string): string {
  return name.length > 40 ? `${name.slice(0, 39)}…` : name;
}
